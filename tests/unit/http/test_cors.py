"""Pages of other origins that may read responses."""

from __future__ import annotations

from typing import Any

import pytest

from triochan import Application, Channel, Message, route, route_class
from triochan.exceptions import ImproperlyConfigured
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import before_response, cors, text
from triochan.runtime import REQUEST
from triochan.sessions import http_session
from triochan.test import Client

PAGE = "https://app.example.com"
VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
"""Of a preflight's answer."""


async def sends(message: Message) -> None:
    await message.reply_channel.send(
        {"status": 200, "headers": [("X-Own", "1")], "content": b"a", "more_content": True}
    )
    await message.reply_channel.send({"content": b"b"})


async def has_its_own(message: Message) -> object:
    own = [("access-control-allow-origin", "*"), ("Access-Control-Allow-Credentials", "false"), ("Vary", "X")]
    return text("ab", headers=own)


async def returns(message: Message) -> object:
    return text("ab")


async def crashes(message: Message) -> object:
    raise RuntimeError("on purpose")


ROUTING = [
    route("http.request", sends, path="^/sends$"),
    route("http.request", returns, path="^/returns$", method="^(?:GET|PUT)$"),
    route("http.request", crashes, path="^/crashes$"),
    route("http.request", has_its_own, path="^/own$"),
    route_class(WebsocketConsumer, path="^/ws$"),
]


def client(*origins: str, **options: Any) -> Client:
    return Client(Application(ROUTING, middleware=[cors(origins or [PAGE], **options)]))


def said(response: Any) -> dict[str, str]:
    return {
        name.decode().removeprefix("access-control-"): value.decode()
        for name, value in response.headers
        if name.startswith(b"access-control-") or name == b"vary"
    }


@pytest.mark.parametrize("path", ["/sends", "/returns"])
async def test_a_response_is_for_the_pages_that_are_allowed(path: str) -> None:
    async with client(expose=["X-Own", "ETag"]) as made:
        response = await made.get(path, headers={"Origin": PAGE})
        assert response.text == "ab"
        assert said(response) == {"allow-origin": PAGE, "vary": "Origin", "expose-headers": "X-Own, ETag"}
        for headers in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
            response = await made.get(path, headers=headers)
            assert response.text == "ab"
            assert said(response) == {"vary": "Origin"}


async def test_any_page() -> None:
    async with client("*") as made:
        # Without an origin too: a cache may keep that response for a page that has one.
        for headers in ({"Origin": PAGE}, {"Origin": "null"}, {}):
            assert said(await made.get("/returns", headers=headers)) == {"allow-origin": "*"}


async def test_browsers_take_one_allowed_origin() -> None:
    """And refuse a response with two."""
    async with client(credentials=True) as made:
        response = await made.get("/own", headers={"Origin": PAGE})
        names = [name for name, _ in response.headers if name.startswith(b"access-control-")]
        assert sorted(names) == [b"access-control-allow-credentials", b"access-control-allow-origin"]
        assert said(response)["allow-origin"] == PAGE
        assert said(response)["allow-credentials"] == "true"
        # What the program says to pages that are not on the list is its own affair.
        response = await made.get("/own", headers={"Origin": "https://other.example"})
        assert said(response)["allow-origin"] == "*"
    async with client("*") as made:
        response = await made.get("/own", headers={"Origin": PAGE})
        assert [value for name, value in response.headers if name.endswith(b"allow-origin")] == [b"*"]


async def test_below_a_host() -> None:
    async with client("https://*.example.com", credentials=True) as made:
        assert said(await made.get("/returns", headers={"Origin": PAGE})) == {
            "allow-origin": PAGE, "allow-credentials": "true", "vary": "Origin",
        }  # fmt: skip


def asking(method: str, *headers: str, origin: str = PAGE) -> dict[str, str]:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return {**asked, "Access-Control-Request-Headers": ", ".join(headers)} if headers else asked


@pytest.mark.parametrize("path", ["/sends", "/returns", "/nowhere"])
async def test_a_preflight_is_answered(path: str) -> None:
    async with client(headers=["X-Token", "Content-Type"], methods=["PUT"], max_age=5) as made:
        response = await made.request("OPTIONS", path, headers=asking("PUT", "x-token", "Content-Type"))
        assert (response.status, response.body) == (204, b"")
        assert said(response) == {
            "allow-origin": PAGE, "vary": VARY, "allow-methods": "PUT", "max-age": "5",
            "allow-headers": "x-token, content-type",
        }  # fmt: skip
        assert (await made.request("OPTIONS", path, headers=asking("POST"))).status == 204


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        (asking("DELETE"), "pages of other origins may not use DELETE"),
        (asking("PUT", "x-other"), "pages of other origins may not send x-other"),
        (asking("PUT", origin="https://evil.example"), "pages of https://evil.example may not use this"),
    ],
)
async def test_a_preflight_is_refused(headers: dict[str, str], says: str) -> None:
    async with client(headers=["X-Token"], methods=["PUT"]) as made:
        response = await made.request("OPTIONS", "/returns", headers=headers)
        assert response.status == 403
        assert response.text == says + "\n"
        assert said(response) == {"vary": VARY}


async def test_headers_that_any_page_may_set() -> None:
    """A page asks where their values are not the usual ones: ``Content-Type: application/json``."""
    headers = ["accept", "accept-language", "content-language", "content-type"]
    async with client() as made:
        response = await made.request("OPTIONS", "/returns", headers=asking("POST", *headers))
        assert (response.status, said(response)["allow-headers"]) == (204, ", ".join(headers))


@pytest.mark.parametrize("credentials", [False, True])
async def test_any_method(credentials: bool) -> None:
    async with client(methods=["*"], credentials=credentials) as made:
        for method in ("GET", "DELETE", "PROPFIND"):
            response = await made.request("OPTIONS", "/returns", headers=asking(method))
            assert (response.status, said(response)["allow-methods"]) == (204, method)


async def test_any_header() -> None:
    async with client(headers=["*"]) as made:
        response = await made.request("OPTIONS", "/returns", headers=asking("PUT", "x-whatever"))
        assert said(response)["allow-headers"] == "x-whatever"


async def test_options_without_asking_is_a_request_like_others() -> None:
    async with client() as made:
        response = await made.request("OPTIONS", "/returns", headers={"Origin": PAGE})
        assert (response.status, response.header("allow")) == (200, "GET, HEAD, PUT, OPTIONS")
        assert said(response) == {"allow-origin": PAGE, "vary": "Origin"}


async def test_what_is_not_found_is_readable_too() -> None:
    async with client() as made:
        for method, path, status in (("GET", "/nowhere", 404), ("POST", "/returns", 405)):
            response = await made.request(method, path, headers={"Origin": PAGE})
            assert response.status == status
            assert said(response)["allow-origin"] == PAGE


async def test_websockets_are_left_alone() -> None:
    async with client() as made, made.websocket("/ws"):
        pass


async def test_a_crash_is_answered_without(caplog: pytest.LogCaptureFixture) -> None:
    async with client() as made:
        response = await made.get("/crashes", headers={"Origin": PAGE})
        assert (response.status, said(response)) == (500, {})


async def test_it_goes_with_sessions() -> None:
    @http_session
    async def remembers(message: Message) -> object:
        message.http_session["n"] = 1
        return text("")

    application = Application([route("http.request", remembers)], middleware=[cors([PAGE], credentials=True)])
    async with Client(application) as made:
        response = await made.get("/", headers={"Origin": PAGE})
        assert response.header("set-cookie") is not None
        assert {value for name, value in response.headers if name == b"vary"} == {b"Origin", b"Cookie"}


@pytest.mark.parametrize(
    ("origins", "options", "says"),
    [
        (["*"], {"credentials": True}, "lets every page act for its visitors"),
        (["null"], {"credentials": True}, "lets every page act for its visitors"),
        ([PAGE], {"methods": "GET"}, "methods is a list of names, not 'GET'"),
        ([PAGE], {"headers": ["a b"]}, "headers is a list of names"),
        ([PAGE], {"expose": [""]}, "expose is a list of names"),
        (["example.com"], {}, "takes origins such as"),
        ([None], {}, "takes origins such as .*, not None"),
        ([PAGE], {"methods": ["patch"]}, "methods are in capitals, 'PATCH' and not 'patch'"),
        (
            [PAGE],
            {"expose": ["*"], "credentials": True},
            "browsers expose nothing for '\\*' beside credentials",
        ),
        ([PAGE], {"max_age": -1}, "max_age is a whole number of seconds, 0 or more, not -1"),
        ([PAGE], {"max_age": 1.5}, "not 1.5"),
        ([PAGE], {"max_age": True}, "not True"),
        ([PAGE], {"max_age": "10"}, "not '10'"),
    ],
)
def test_what_is_found_at_definition(origins: list[Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        cors(origins, **options)


async def test_before_response_needs_a_response_to_come() -> None:
    async def hook(content: dict[str, Any]) -> dict[str, Any]:
        return content

    async def late(message: Message) -> None:
        await message.reply_channel.send(text("sent"))
        with pytest.raises(ValueError, match=r"is no http\.request whose response is still to come"):
            before_response(message, hook)

    async with Client([route("http.request", late)]) as made:
        assert (await made.get("/")).text == "sent"
    with pytest.raises(ValueError, match=r"is no http\.request"):
        before_response(Message({}, REQUEST, Channel("x")), hook)

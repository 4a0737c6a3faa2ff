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


async def sends(message: Message) -> None:
    await message.reply_channel.send(
        {"status": 200, "headers": [("X-Own", "1")], "content": b"a", "more_content": True}
    )
    await message.reply_channel.send({"content": b"b"})


async def returns(message: Message) -> object:
    return text("ab")


async def crashes(message: Message) -> object:
    raise RuntimeError("on purpose")


ROUTING = [
    route("http.request", sends, path="^/sends$"),
    route("http.request", returns, path="^/returns$", method="^(?:GET|PUT)$"),
    route("http.request", crashes, path="^/crashes$"),
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
        for headers in ({"Origin": PAGE}, {"Origin": "null"}):
            assert said(await made.get("/returns", headers=headers)) == {"allow-origin": "*"}


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
            "allow-origin": PAGE, "vary": "Origin", "allow-methods": "PUT", "max-age": "5",
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
        assert said(response) == {}


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
    ],
)
def test_what_is_found_at_definition(origins: list[str], options: dict[str, Any], says: str) -> None:
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

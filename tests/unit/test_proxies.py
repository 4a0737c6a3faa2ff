"""What trusted proxies say of a request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan import Application, Message, route, route_class
from triochan.auth import http_session_user, login
from triochan.exceptions import ImproperlyConfigured
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import json, text
from triochan.proxies import Forwarded, Front, TrustedProxies
from triochan.test import Client
from triochan.test.client import HandshakeRefused

PROXY: list[str | int] = ["10.0.0.1", 4000]
TRUSTED = TrustedProxies(["10.0.0.0/8", "fd00::/8", "unix"])


def seen(*headers: tuple[str, str], client: Any = PROXY, trusted: TrustedProxies = TRUSTED) -> Forwarded:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return trusted.seen(pairs, client, "http")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], Forwarded(PROXY, "http")),
        ([("x-forwarded-for", "192.0.2.1")], Forwarded(["192.0.2.1", 0], "http")),
        ([("x-forwarded-for", " 192.0.2.1 , 10.9.9.9 ")], Forwarded(["192.0.2.1", 0], "http")),
        ([("x-forwarded-for", "192.0.2.1"), ("x-forwarded-for", "10.9.9.9")], Forwarded(["192.0.2.1", 0], "http")),
        # What a client made up stands before the first proxy that is not trusted.
        ([("x-forwarded-for", "1.1.1.1, 192.0.2.1, 10.9.9.9")], Forwarded(["192.0.2.1", 0], "http")),
        ([("x-forwarded-for", "10.1.1.1, 10.2.2.2")], Forwarded(["10.1.1.1", 0], "http")),
        ([("x-forwarded-for", "192.0.2.1:5000")], Forwarded(["192.0.2.1", 5000], "http")),
        ([("x-forwarded-for", "2001:db8::1")], Forwarded(["2001:db8::1", 0], "http")),
        ([("x-forwarded-for", "[2001:db8::1]:5000")], Forwarded(["2001:db8::1", 5000], "http")),
        ([("x-forwarded-for", "unknown")], Forwarded(["unknown", 0], "http")),
        ([("x-forwarded-for", "rubbish!, 10.9.9.9")], Forwarded(["10.9.9.9", 0], "http")),
        ([("x-forwarded-for", "192.0.2.1:99999")], Forwarded(PROXY, "http")),
        ([("x-forwarded-for", "")], Forwarded(PROXY, "http")),
        ([("x-forwarded-for", "192.0.2.1, , 10.9.9.9,")], Forwarded(["192.0.2.1", 0], "http")),
        ([("x-forwarded-proto", "https,")], Forwarded(PROXY, "https")),
        ([("x-forwarded-for", "::ffff:192.0.2.1, ::ffff:10.9.9.9")], Forwarded(["192.0.2.1", 0], "http")),
        ([("x-forwarded-proto", "https")], Forwarded(PROXY, "https")),
        ([("x-forwarded-proto", "WSS")], Forwarded(PROXY, "https")),
        ([("x-forwarded-proto", "gopher")], Forwarded(PROXY, "http")),
        ([("x-forwarded-host", "example.com:8443")], Forwarded(PROXY, "http", b"example.com:8443")),
        ([("x-forwarded-host", "exa mple")], Forwarded(PROXY, "http")),
        (
            [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "example.com")],
            Forwarded(["192.0.2.1", 0], "https", b"example.com"),
        ),
        (
            [("forwarded", "for=192.0.2.1;proto=https;host=example.com")],
            Forwarded(["192.0.2.1", 0], "https", b"example.com"),
        ),
        ([("forwarded", 'For="[2001:db8::1]:4711"; Proto=HTTPS')], Forwarded(["2001:db8::1", 4711], "https")),
        ([("forwarded", 'for="192.0.2.1:80", for=10.2.2.2;proto=https')], Forwarded(["192.0.2.1", 80], "https")),
        ([("forwarded", "for=192.0.2.1"), ("forwarded", "for=10.2.2.2")], Forwarded(["192.0.2.1", 0], "http")),
        ([("forwarded", "for=1.1.1.1;host=evil, for=192.0.2.1, for=10.2.2.2")], Forwarded(["192.0.2.1", 0], "http")),
        ([("forwarded", "for=_hidden")], Forwarded(["_hidden", 0], "http")),
        ([("forwarded", 'for="\\1\\9\\2.0.2.1"')], Forwarded(["192.0.2.1", 0], "http")),
        ([("forwarded", "proto=https;by=10.0.0.1")], Forwarded(PROXY, "https")),
        # A client's rubbish takes nothing from what the proxy behind it has added.
        ([("forwarded", 'for="1.1.1.1, for=192.0.2.1')], Forwarded(["192.0.2.1", 0], "http")),
        ([("forwarded", "@@@, for=192.0.2.1")], Forwarded(["192.0.2.1", 0], "http")),
        ([("forwarded", "@@@")], Forwarded(PROXY, "http")),
        ([("forwarded", "for=192.0.2.1"), ("x-forwarded-for", "1.1.1.1")], Forwarded(["192.0.2.1", 0], "http")),
    ],
)  # fmt: skip
def test_what_a_trusted_proxy_says(headers: list[tuple[str, str]], expected: Forwarded) -> None:
    assert seen(*headers) == expected


EVERYTHING = [
    ("x-forwarded-for", "192.0.2.1"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "example.com"),
]


@pytest.mark.parametrize(
    ("trusted", "client", "believed"),
    [
        (["10.0.0.1"], ["10.0.0.1", 1], True),
        (["10.0.0.1"], ["10.0.0.2", 1], False),
        (["10.0.0.1"], ["::ffff:10.0.0.1", 1], True),
        (["::ffff:10.0.0.0/104"], ["10.0.0.1", 1], True),
        (["::ffff:10.0.0.1"], ["::ffff:10.0.0.1", 1], True),
        (["::/0"], ["10.0.0.1", 1], False),
        (["::1"], ["::1", 1], True),
        (["10.0.0.1"], None, False),
        (["unix"], None, True),
        (["*"], None, True),
        (["*"], ["203.0.113.9", 1], True),
        ([], ["127.0.0.1", 1], False),
    ],
)
def test_who_is_trusted(trusted: list[str], client: Any, believed: bool) -> None:
    found = seen(*EVERYTHING, client=client, trusted=TrustedProxies(trusted))
    assert (found == Forwarded(["192.0.2.1", 0], "https", b"example.com")) == believed
    assert (found == Forwarded(client, "http")) != believed


def test_where_everybody_is_trusted_the_farthest_is_the_client() -> None:
    hops = ", ".join(f"192.0.2.{each}" for each in range(100))
    assert seen(("x-forwarded-for", hops), trusted=TrustedProxies(["*"])).client == ["192.0.2.0", 0]


def test_a_thousand_hops() -> None:
    hops = ", ".join(["for=10.1.1.1"] * 1000)
    assert seen(("forwarded", hops)).client == ["10.1.1.1", 0]
    assert seen(("forwarded", hops), client=["203.0.113.9", 1]).client == ["203.0.113.9", 1]


@pytest.mark.parametrize(
    "addresses", ["10.0.0.1", ["10.0.0.1/33"], ["10.0.0.1/8"], ["proxy.example.com"], [""]]
)
def test_what_is_no_proxy(addresses: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="trusted prox"):
        TrustedProxies(addresses)


@given(
    st.sampled_from(["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"]),
    st.one_of(st.text(st.characters(max_codepoint=255)), st.text(';,="\\ abcfor[]:.123')),
)
def test_whatever_a_client_sends_is_read(name: str, value: str) -> None:
    found = seen((name, value))
    assert found.scheme in ("http", "https")
    assert found.client is not None
    # What a proxy adds behind it counts, whatever stands before it.
    if name == "x-forwarded-for":
        assert seen((name, f"{value}, 192.0.2.1")).client == ["192.0.2.1", 0]
    if name == "forwarded" and '"' not in value:
        assert seen((name, f"{value}, for=192.0.2.1")).client == ["192.0.2.1", 0]


KEYS = ("client", "scheme", "path", "raw_path", "root_path")
HEADERS = {
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "chat.example.com",
}


async def tell(message: Message) -> object:
    host = next(value.decode() for name, value in message["headers"] if name == b"host")
    raw = message["raw_path"].decode()
    return json({**{key: message.get(key) for key in KEYS}, "raw_path": raw, "host": host})


async def test_a_message_is_as_the_client_sent_it() -> None:
    async with Client([route("http.request", tell)], trusted_proxies=["192.0.2.0/24"]) as client:
        assert (await client.get("/a%20b?c", headers=HEADERS)).json() == {
            "client": ["203.0.113.7", 0], "scheme": "https", "path": "/a b", "raw_path": "/a%20b", "root_path": None,
            "host": "chat.example.com",
        }  # fmt: skip
        told = (await client.get("/", headers={"X-Forwarded-For": "203.0.113.7"})).json()
        assert (told["client"], told["host"]) == (["203.0.113.7", 0], "testserver")
    async with Client([route("http.request", tell)]) as client:
        assert (await client.get("/", headers=HEADERS)).json() == {
            "client": ["192.0.2.1", 50000], "scheme": "http", "path": "/", "raw_path": "/", "root_path": None,
            "host": "testserver",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "seen_path"),
    [("/chat/room", "/room"), ("/chat", "/"), ("/chat/", "/"), ("/room", "/room"), ("/chatter", "/chatter")],
)
async def test_the_path_below_which_a_proxy_serves(path: str, seen_path: str) -> None:
    async with Client([route("http.request", tell)], root_path="/chat") as client:
        told = (await client.get(path)).json()
        assert (told["path"], told["raw_path"], told["root_path"]) == (seen_path, path, "/chat")


@pytest.mark.parametrize("root_path", ["chat", "/chat/", "/"])
def test_what_is_no_root_path(root_path: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="root_path is a path such as"):
        Front(root_path=root_path)


class User:
    id = 1


async def nobody(session: Any) -> None:
    return None


@http_session_user
async def log_in(message: Message) -> object:
    await login(message, User())
    return text("")


class Socket(WebsocketConsumer):
    http_user = True

    async def connect(self, message: Message, **kwargs: Any) -> None:
        assert message["scheme"] == "wss"
        assert message["client"] == ["203.0.113.7", 0]


async def test_origins_cookies_and_hosts_follow() -> None:
    application = Application(
        [route_class(Socket, path="^/ws$"), route("http.request", log_in)],
        user_loader=nobody,
        allowed_hosts=["chat.example.com"],
    )
    async with Client(application, trusted_proxies=["*"], headers=HEADERS) as client:
        cookie = (await client.get("/")).header("set-cookie")
        assert cookie is not None
        assert "; Secure" in cookie
        async with client.websocket("/ws", headers={"Origin": "https://chat.example.com"}):
            pass
        for origin in ("http://chat.example.com", "http://testserver"):
            with pytest.raises(HandshakeRefused):
                async with client.websocket("/ws", headers={"Origin": origin}):
                    pass
    async with Client(application, headers=HEADERS) as client:
        assert (
            await client.get("/")
        ).status == 400  # the proxy is not trusted, and its own name is not allowed


@pytest.mark.parametrize("path", ["/a%20b", "/%C3%A9", "/a?b", "/a#b"])
def test_what_no_path_has(path: str) -> None:
    for options in ({"root_path": path}, {"health_path": path}):
        with pytest.raises(
            ImproperlyConfigured, match=f"{next(iter(options))} is compared with paths that are"
        ):
            Front(**options)
    assert Front(root_path="/100%", health_path="/a b").root_path == "/100%"


@pytest.mark.parametrize("health_path", ["healthz", ""])
def test_what_is_no_health_path(health_path: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="health_path is a path such as"):
        Front(health_path=health_path)


async def test_the_server_says_whether_it_takes_requests() -> None:
    application = Application([route("http.request", tell)], allowed_hosts=["chat.example.com"])
    async with Client(application, health_path="/healthz") as client:
        response = await client.get("/healthz")
        assert (response.status, response.text) == (200, "ok\n")
        head = await client.request("HEAD", "/healthz")
        assert (head.status, head.body) == (200, b"")
        assert (await client.get("/healthz/more")).status == 400  # another path asks the application
        client.runtime.draining = True
        response = await client.get("/healthz")
        assert (response.status, response.text) == (503, "shutting down\n")

"""Who may open a WebSocket, by which names the server answers, and what never gets into a header."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from triochan import Application, Channel, Message, route, route_class
from triochan.auth import (
    channel_and_http_session_user_from_http,
    channel_session_user,
    channel_session_user_from_http,
    http_session_user,
)
from triochan.exceptions import DenyConnection, ImproperlyConfigured
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import redirect, set_cookie, text
from triochan.security import AllowedHosts, AllowedOrigins, Origin, allowed_hosts_only, same_origin_only
from triochan.sessions import channel_and_http_session, channel_session, http_session
from triochan.test import Client
from triochan.test.client import HandshakeRefused

SESSION_DECORATORS = [
    channel_session,
    http_session,
    channel_and_http_session,
    channel_session_user,
    http_session_user,
    channel_session_user_from_http,
    channel_and_http_session_user_from_http,
]


def a_handshake(*headers: tuple[bytes, bytes] | list[bytes], scheme: str = "ws", **options: Any) -> Message:
    message = Message({"path": "/", "headers": list(headers), "scheme": scheme}, Channel("websocket.connect"))
    message.application = Application([], **options)
    return message


# -- allowed_hosts_only, as Channels 1 has it


@allowed_hosts_only
async def connect(message: Message) -> bool:
    return True


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (b"http://example.com", True),
        (b"https://EXAMPLE.com:8443", True),
        (b"http://example.com.", True),
        (b"http://www.example.net", True),
        (b"http://example.net", True),
        (b"http://example.org", False),
        (b"http://www.example.com", False),
        (b"http://example.com.evil.org", False),
        (b"http://badexample.net", False),
        (b"http://example.com@evil.org", False),
        (b"http://evil.org/example.com", False),
        (b"http://evil.org#.example.net", False),
        (b"http://[::1]", True),
        (b"null", False),
        (b"", False),
        (b"example.com", False),
        (b"\xc3\xa4", False),
        (b"http://ex\xc3\xa4mple.com", False),
        (b"http://example.com\nX: y", False),
        (None, False),
    ],
)
async def test_allowed_hosts_only(origin: bytes | None, allowed: bool) -> None:
    headers = [] if origin is None else [(b"origin", origin)]
    message = a_handshake(*headers, allowed_hosts=["example.com", ".example.net", "[::1]"])
    if allowed:
        assert await connect(message) is True
    else:
        with pytest.raises(DenyConnection):
            await connect(message)


async def test_a_header_that_is_none_is_no_origin() -> None:
    cases: list[list[Any]] = [[[]], [[b"origin"]], [(b"origin", b"http://a"), (b"origin", b"http://a")]]
    for headers in cases:
        with pytest.raises(DenyConnection):
            await connect(a_handshake(*headers, allowed_hosts=["*"]))


async def test_without_allowed_hosts_this_machine_is_allowed() -> None:
    for origin in (
        b"http://localhost:3000",
        b"http://127.0.0.1",
        b"http://[::1]:80",
        b"http://app.localhost",
    ):
        assert await connect(a_handshake((b"origin", origin)))
    with pytest.raises(DenyConnection):
        await connect(a_handshake((b"origin", b"http://example.com")))


async def test_allowed_hosts_only_lets_every_message_but_the_handshake_pass() -> None:
    class Consumer(WebsocketConsumer):
        def get_handler(self, message: Message, **kwargs: Any) -> Any:
            return allowed_hosts_only(super().get_handler(message, **kwargs))

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            await self.send(text="fine")

    application = Application([route_class(Consumer)], allowed_hosts=["testserver", "example.com"])
    async with Client(application) as client:
        async with client.websocket("/", headers={"Origin": "https://example.com"}) as socket:
            await socket.send("?")
            assert await socket.receive() == "fine"
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/", headers={"Origin": "https://example.org"}):
                pass
        assert refused.value.status == 403


# -- a consumer that reads cookies


@pytest.mark.parametrize("decorator", [*SESSION_DECORATORS, same_origin_only])
async def test_a_handshake_from_another_site_is_refused(
    decorator: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    @decorator
    async def consumer(message: Message) -> None:
        calls.append(message.channel.name)

    async with Client([route(["websocket.connect", "websocket.disconnect"], consumer)]) as client:
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/", headers={"Origin": "https://evil.example"}):
                pass
        assert refused.value.status == 403
        assert calls == []
        assert "its page came from 'https://evil.example', and this server is ws://testserver" in caplog.text
        assert "allowed_origins" in caplog.text
        async with client.websocket("/"):
            pass
    assert calls[0] == "websocket.connect"


@pytest.mark.parametrize(
    "attribute", ["channel_session", "channel_session_user", "http_user", "http_user_and_session"]
)
async def test_so_it_is_for_classes(attribute: str) -> None:
    async with Client([WebsocketConsumer.as_route({attribute: True})]) as client:
        with pytest.raises(HandshakeRefused):
            async with client.websocket("/", headers={"Origin": "http://testserver:81"}):
                pass
        async with client.websocket("/"):
            pass


async def test_a_consumer_without_sessions_takes_handshakes_from_everywhere() -> None:
    async with Client([route_class(WebsocketConsumer)]) as client:
        async with client.websocket("/", headers={"Origin": "https://evil.example"}):
            pass


@same_origin_only
async def guarded(message: Message) -> bool:
    return True


HOST = (b"host", b"example.com")


@pytest.mark.rfc(
    "6455", "4.2.2", "MUST answer with an error where it does not want a connection of that origin"
)
@pytest.mark.parametrize(
    ("scheme", "host", "origin", "same"),
    [
        ("ws", b"example.com", b"http://example.com", True),
        ("ws", b"example.com:80", b"http://example.com", True),
        ("ws", b"example.com", b"http://example.com:80", True),
        ("ws", b"Example.COM", b"http://eXample.com", True),
        ("ws", b"example.com:8000", b"http://example.com:8000", True),
        ("wss", b"example.com", b"https://example.com", True),
        ("wss", b"example.com:443", b"https://example.com", True),
        ("ws", b"[::1]:8000", b"http://[::1]:8000", True),
        ("ws", b"example.com", b"https://example.com", False),
        ("wss", b"example.com", b"http://example.com", False),
        ("ws", b"example.com:8000", b"http://example.com", False),
        ("ws", b"example.com", b"http://example.com:8000", False),
        ("ws", b"example.com", b"http://www.example.com", False),
        ("ws", b"www.example.com", b"http://example.com", False),
        ("ws", b"example.com", b"http://example.com.evil.org", False),
        ("ws", b"example.com", b"http://example.com@evil.org", False),
        ("ws", b"example.com", b"http://example.com/", False),
        ("ws", b"example.com", b"ws://example.com", False),
        ("ws", b"example.com", b"file://", False),
        ("ws", b"example.com", b"null", False),
        ("ws", b"null", b"null", False),
        ("ws", b"example.com", b"", False),
        ("ws", b"", b"http://", False),
        ("ws", b"evil.org, example.com", b"http://example.com", False),
        ("ws", b"example.com", b"http://example.com\r\nX: y", False),
        ("ws", b"example.com", b"http://example.com http://example.com", False),
    ],
)
async def test_scheme_host_and_port_make_the_origin(
    scheme: str, host: bytes, origin: bytes, same: bool
) -> None:
    message = a_handshake((b"host", host), (b"origin", origin), scheme=scheme)
    if same:
        assert await guarded(message)
    else:
        with pytest.raises(DenyConnection):
            await guarded(message)


async def test_two_origins_or_two_hosts_are_none() -> None:
    own = (b"origin", b"http://example.com")
    for headers in ([HOST, own, own], [HOST, HOST, own], [own]):
        with pytest.raises(DenyConnection):
            await guarded(a_handshake(*headers))


async def test_a_missing_origin_is_allowed_where_no_cookie_came() -> None:
    assert await guarded(a_handshake(HOST))
    with pytest.raises(DenyConnection):
        await guarded(a_handshake(HOST, (b"cookie", b"a=1")))
    with pytest.raises(DenyConnection):
        await guarded(a_handshake(HOST, (b"cookie", b"")))


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (b"https://example.org", True),
        (b"https://EXAMPLE.org:443", True),
        (b"https://a.example.net", True),
        (b"https://b.a.example.net", True),
        (b"http://dev.local:3000", True),
        (b"capacitor://localhost", True),
        (b"http://example.org", False),
        (b"https://example.net", False),
        (b"https://aexample.net", False),
        (b"https://a.example.net:8443", False),
        (b"http://dev.local", False),
        (b"null", False),
    ],
)
async def test_allowed_origins_widen(origin: bytes, allowed: bool) -> None:
    origins = [
        "https://example.org",
        "https://*.example.net",
        "http://dev.local:3000",
        "capacitor://localhost",
    ]
    message = a_handshake(HOST, (b"origin", origin), allowed_origins=origins)
    if allowed:
        assert await guarded(message)
    else:
        with pytest.raises(DenyConnection):
            await guarded(message)


async def test_every_origin_may_be_allowed() -> None:
    for headers in ([HOST, (b"origin", b"null")], [(b"cookie", b"a=1")]):
        assert await guarded(a_handshake(*headers, allowed_origins=["*"]))


@pytest.mark.parametrize("named", ["null", "file://"])
async def test_pages_without_an_origin_may_be_allowed_by_name(named: str) -> None:
    for said in ("null", "file://", "https://example.com"):
        handshake = a_handshake(
            HOST, (b"origin", said.encode()), allowed_origins=[named, "https://example.com"]
        )
        if said in (named, "https://example.com"):
            assert await guarded(handshake)
        else:
            with pytest.raises(DenyConnection):
                await guarded(handshake)


@pytest.mark.parametrize(
    "origins",
    ["https://example.com", ["example.com"], ["https://example.com/"], ["https://*"], ["https://a.*.com"], [""],
     ["https://u@example.com"], ["file:///x"], ["NULL"]],
)  # fmt: skip
def test_what_is_no_origin_is_found_at_once(origins: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="allowed_origins"):
        Application([], allowed_origins=origins)


@pytest.mark.parametrize(
    "hosts",
    [
        "example.com",
        ["http://example.com"],
        ["example.com:80"],
        [""],
        ["."],
        ["*.example.com"],
        ["a b"],
        [None],
    ],
)
def test_what_is_no_host_is_found_at_once(hosts: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="allowed_hosts"):
        Application([], allowed_hosts=hosts)


def test_origins_and_hosts_as_values() -> None:
    assert Origin.parse("http://a") == ("http", "a", 80)
    assert Origin.parse("x://a") == ("x", "a", None)
    assert Origin.parse("http://a:") is None
    assert Origin.parse("http://[2001:DB8:0::1]") == ("http", "[2001:db8::1]", 80)
    assert Origin.parse("http://[:::]") == ("http", "[:::]", 80)
    assert AllowedOrigins(["http://[2001:db8:0:0::1]"]).allows_text("http://[2001:db8::1]:80")
    assert AllowedHosts(["[0:0::1]"]).allows("[::1]")
    assert AllowedHosts(["[0:0::1]"]).allows_headers([(b"host", b"[::0:1]:8000")])
    assert AllowedHosts(["*"]).allows("anything")
    assert not AllowedHosts([]).allows("anything")
    assert AllowedHosts(["Example.com."]).allows("example.COM")
    assert not AllowedOrigins([]).allows(Origin("http", "a", 80))


# -- the Host header


async def answered(client: Client, host: bytes | None, *, upgrade: bool = False) -> bytes:
    """The status line that a request with this ``Host`` gets."""
    stream = client.connect()
    lines = [b"GET / HTTP/1.1"]
    if host is not None:
        lines.append(b"Host: " + host)
    if upgrade:
        lines += [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
                  b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]  # fmt: skip
    await stream.send_all(b"\r\n".join([*lines, b"", b""]))
    head = b""
    while b"\r\n" not in head:
        head += await stream.receive_some()
    await trio.aclose_forcefully(stream)
    return head.partition(b"\r\n")[0]


@pytest.mark.parametrize("upgrade", [False, True])
async def test_the_host_header_is_checked_where_hosts_are_named(upgrade: bool) -> None:
    async def page(message: Message) -> None:
        await message.reply_channel.send(text(""))

    routing = [route("http.request", page), route_class(WebsocketConsumer)]
    fine = b"HTTP/1.1 101 " if upgrade else b"HTTP/1.1 200 "
    async with Client(Application(routing, allowed_hosts=["example.com", ".example.net"])) as client:
        for host in (b"example.com", b"Example.com:8000", b"a.example.net", b"example.com."):
            assert (await answered(client, host, upgrade=upgrade)).startswith(fine)
        for wrong in (
            b"example.org",
            b"localhost",
            b"",
            b"example.com:x",
            b"example.com@evil",
            b"a, example.com",
            None,
        ):
            assert (await answered(client, wrong, upgrade=upgrade)).startswith(b"HTTP/1.1 400 ")
    async with Client(Application(routing)) as client:
        assert (await answered(client, b"anything", upgrade=upgrade)).startswith(fine)


# -- nothing gets into a header that does not belong there


@pytest.mark.parametrize("bad", ["a\r\nSet-Cookie: b=c", "a\nb", "a\0b", "a;b", "é"])
def test_a_cookie_ends_where_it_should(bad: str) -> None:
    with pytest.raises(ValueError, match="cookie"):
        set_cookie("name", bad)
    with pytest.raises(ValueError, match="cookie"):
        set_cookie(bad, "value")
    if ";" in bad or "\n" in bad:
        with pytest.raises(ValueError, match="cookie"):
            set_cookie("name", "value", path=bad)


@pytest.mark.parametrize(
    "target",
    ["/a\r\nSet-Cookie: b=c", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", " /a",
     "data:text/html,x", "/a\0", "\t//evil.example"],
)  # fmt: skip
def test_a_redirect_goes_where_it_looks_like(target: str) -> None:
    with pytest.raises(ValueError, match="a redirect goes to a path"):
        redirect(target)


@pytest.mark.parametrize("bad", ["a\r\nX: y", "b", "", "a,b"])
async def test_a_subprotocol_is_one_that_was_offered(bad: str, caplog: pytest.LogCaptureFixture) -> None:
    async def connect(message: Message) -> None:
        await message.reply_channel.send({"accept": True, "subprotocol": bad})

    async with Client([route("websocket.connect", connect)]) as client:
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/", subprotocols=["a"]):
                pass
        assert refused.value.status == 500
    assert "subprotocol" in str(caplog.records[0].exc_info)


async def test_a_header_of_the_handshakes_answer_ends_where_it_should(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def connect(message: Message) -> None:
        await message.reply_channel.send({"accept": True, "headers": [("X-A", "a\r\nSet-Cookie: b=c")]})

    async with Client([route("websocket.connect", connect)]) as client:
        with pytest.raises(HandshakeRefused):
            async with client.websocket("/"):
                pass
    assert "can't have the value" in str(caplog.records[0].exc_info)

"""Whatever the server refuses or closes by itself has one line in the log that says why."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import itsdangerous
import pytest
import trio
import trio.testing
from door import DoorClient
from raw_clients import RawClient, close_frame, frame, handshake
from recorder import nothing_left

import triochan
from triochan import Application, Settings, route
from triochan.auth import channel_and_http_session_user_from_http, http_session_user
from triochan.exceptions import DenyConnection, HttpError
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer
from triochan.http import client_route, cors, form, static_files, text
from triochan.http1.protocol import FULL, NOT_TLS
from triochan.http1.serving import serve_stream
from triochan.message import Message
from triochan.sessions import http_session
from triochan.sessions.cookies import SessionCookies
from triochan.test import Client
from triochan.wire.frames import BINARY, TEXT

SETTINGS = Settings(
    head_timeout=3, body_timeout=3, handshake_timeout=3, disconnect_timeout=4, write_timeout=5,
    max_body_size=4096, max_message_size=4096, ping_interval=20, ping_timeout=20, max_connections=5,
)  # fmt: skip
SECRETS = ["the newest secret of all", "an older one of the secrets"]


class Chat(JsonWebsocketConsumer):
    rate_limit = "2/s"

    async def connect(self, message: Message, **kwargs: Any) -> None:
        match self.path:
            case "/deny":
                raise DenyConnection
            case "/error":
                raise HttpError(402, "pay\nfirst")
            case "/close":
                await self.close()
            case "/reply":
                await message.reply_channel.send({"accept": False})


class Mine(WebsocketConsumer):
    channel_session_user = True
    http_user = True


async def http(message: Message) -> object:
    match message["path"]:
        case "/form":
            await form(message)
        case "/error":
            raise HttpError(402, "pay\nfirst")
        case "/takes-long":
            await message.reply_channel.send({"status": 200, "more_content": True})
            while True:
                await message.reply_channel.send({"content": b"x" * 1000, "more_content": True})
    return text("hello")


def routing(folder: Path) -> list[Any]:
    return [
        Chat.as_route(path="^/(?:chat|deny|error|close|reply)$"),
        client_route("/client.js"),
        static_files("/static/", folder),
        route("http.request", http, method="^(?:GET|POST)$", path="^/(?:|form|error|takes-long)$"),
    ]


def request(target: str, method: str = "GET", *headers: str, body: bytes = b"") -> bytes:
    host = () if any(each.startswith("Host:") for each in headers) else ("Host: localhost",)
    return "\r\n".join([f"{method} {target} HTTP/1.1", *host, *headers, "", ""]).encode() + body


UPGRADE = ("Upgrade: websocket", "Connection: upgrade")
ASKS = "Access-Control-Request-Method: GET"
FORM = "Content-Type: multipart/form-data; boundary=x"


@attrs.frozen
class Case:
    """What is sent, the status or the close code that comes back, and what the line says."""

    data: bytes
    got: int
    says: str
    seconds: float = 0


CASES = {
    # of the parser
    "no Host": Case(b"GET / HTTP/1.1\r\n\r\n", 400, "an HTTP/1.1 request needs a Host header"),
    "not HTTP": Case(b"hello\r\n\r\n", 400, "a request line is 'GET /path HTTP/1.1' and ends in CR LF, not b'hello'"),
    "TLS": Case(b"\x16\x03\x01\x00\x01\x01", 400, "TLS came to a port that speaks plain HTTP"),
    "a wrong field": Case(request("/", "GET", "A : b"), 400, "b'A : b'"),
    "another version": Case(b"GET / HTTP/2.0\r\n\r\n", 505, "not HTTP/2.0"),
    "a path that is no UTF-8": Case(request("/%ff"), 400, "is not UTF-8"),
    "a target that is none": Case(request("x"), 400, "not b'x'"),
    "https": Case(request("https://localhost/"), 421, "this connection is not secured"),
    "TRACE": Case(request("/", "TRACE"), 501, "does not echo"),
    "a large head": Case(request("/", "GET", "A: " + "x" * 17_000), 431, "larger than 16384 bytes"),
    "a long line": Case(b"GET /" + b"x" * 17_000, 414, "larger than 16384 bytes"),
    "a large body": Case(request("/", "POST", "Content-Length: 5000"), 413, "larger than 4096 bytes"),
    "an expectation": Case(request("/", "POST", "Content-Length: 5", "Expect: x"), 417, "100-continue"),
    "a chunk": Case(request("/", "POST", "Transfer-Encoding: chunked", body=b"x\r\n"), 400, "not b'x'"),
    "no head in time": Case(b"GET", 408, "no whole request head came within 3 s", 5),
    "no body in time": Case(request("/", "POST", "Content-Length: 5"), 408, "no whole request body came", 5),
    # of what stands in front of the routing
    "another host": Case(request("/", "GET", "Host: b.example"), 400, "Host is b'b.example', and allowed_hosts are"),
    "a handshake of no version": Case(request("/chat", "GET", *UPGRADE), 426, "WebSocket version 13"),
    "a handshake that is a POST": Case(request("/chat", "POST", *UPGRADE), 405, "is a GET"),
    # of the routing
    "no route": Case(request("/nowhere%0aINFO%20forged"), 404, "404 for GET /nowhere\\nINFO forged on http.request"),
    "another method": Case(request("/", "PUT"), 405, "405 for PUT / on http.request"),
    "no route for a WebSocket": Case(handshake("/nowhere"), 403, "403 for /nowhere on websocket.connect"),
    # of what consumers are given
    "HttpError": Case(request("/error"), 402, "402 for GET /error on http.request: HttpError 'pay\\nfirst'"),
    "a form that is none": Case(
        request("/form", "POST", FORM, "Content-Length: 1", body=b"x"), 400, "HttpError 'the body"
    ),
    "another type": Case(request("/form", "POST", "Content-Length: 1", body=b"x"), 415, "HttpError 'a form is"),
    "the client, by POST": Case(request("/client.js", "POST"), 405, "it takes GET and HEAD"),
    "the client, another one": Case(request("/client.js", "GET", 'If-Match: "x"'), 412, "If-Match"),
    "static, by POST": Case(request("/static/a.txt", "POST"), 405, "it takes GET and HEAD"),
    "no file": Case(request("/static/b.txt"), 404, "there is no file 'b.txt' in"),
    "static, another one": Case(request("/static/a.txt", "GET", 'If-Match: "x"'), 412, "If-Match"),
    "a range": Case(request("/static/a.txt", "GET", "Range: bytes=50-"), 416, "behind the end of 5 bytes"),
    "cors: an origin": Case(
        request("/", "OPTIONS", "Origin: http://b.example", "Access-Control-Request-Method: GET"),
        403, "cors: the origin 'http://b.example' is not allowed",
    ),
    "cors: a method": Case(
        request("/", "OPTIONS", "Origin: http://a.example", "Access-Control-Request-Method: BREW"),
        403, "cors: the method 'BREW' is none of",
    ),
    "cors: a field": Case(
        request("/", "OPTIONS", "Origin: http://a.example", ASKS, "Access-Control-Request-Headers: x-a"),
        403, "cors: the fields 'x-a' are none of",
    ),
    # of handshakes
    "DenyConnection": Case(handshake("/deny"), 403, "Chat raised DenyConnection; 403"),
    "HttpError in connect": Case(handshake("/error"), 402, "Chat raised HttpError 'pay\\nfirst'; 402"),
    "close in connect": Case(handshake("/close"), 403, "closed before it was accepted; 403"),
    "a refusal": Case(handshake("/reply"), 403, "sent accept: False; 403"),
    # of open WebSockets
    "not masked": Case(handshake("/chat") + b"\x81\x01x", 1002, "a client's frame is not masked; 1002"),
    "not UTF-8": Case(handshake("/chat") + frame(TEXT, b"\xff"), 1007, "UTF-8; 1007"),
    "too large": Case(handshake("/chat") + frame(TEXT, "x" * 5000), 1009, "larger than 4096 bytes; 1009"),
    "a wrong close": Case(handshake("/chat") + close_frame(1005), 1002, "the code 1005, which may not be sent; 1002"),
    "binary": Case(handshake("/chat") + frame(BINARY, b"x"), 1003, "Chat on '/chat': a binary message; 1003"),
    "no JSON": Case(handshake("/chat") + frame(TEXT, "{"), 1007, "decode_json on '/chat'"),
    "no pong": Case(handshake("/chat"), 1006, "no pong came on '/chat' within 20 s; 1006", 100),
}  # fmt: skip


@pytest.fixture(autouse=True)
def all_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "triochan")


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name.startswith("triochan.")]


def application(folder: Path) -> Application:
    (folder / "a.txt").write_text("hello")
    return Application(
        routing(folder), middleware=[cors(["http://a.example"])], allowed_hosts=["localhost"], secrets=SECRETS
    )


@pytest.mark.parametrize("what", CASES)
async def test_one_line_says_why(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    case = CASES[what]
    if b"/static/" in case.data:
        autojump_clock.autojump_threshold = 0.1  # a thread looks at the file
    async with Client(application(tmp_path), settings=SETTINGS) as client:
        async with RawClient(client.connect()) as raw:
            raw.patience = 1000
            await raw.send(case.data)
            await trio.sleep(case.seconds)
            if case.got < 1000:
                assert (await raw.answer()).status == case.got
            else:
                assert (await raw.head()).status == 101
                if case.got != 1006:
                    assert (await raw.closing())[0] == case.got
        await nothing_left(client)
    [said] = reasons(caplog)
    assert case.says in said
    assert "\n" not in said


async def test_a_rate_limit(caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock) -> None:
    async with Client([Chat.as_route()]) as client, client.websocket("/") as socket:
        for _ in range(3):
            await socket.send("1")
        assert (await socket.wait_closed()).code == 1008
    over, closed = reasons(caplog)
    assert over.endswith("Chat on '/': over its rate_limit 2/s")
    assert closed.endswith("Chat on '/': too many messages; 1008")


@pytest.mark.parametrize("refusal", [FULL, NOT_TLS])
async def test_a_connection_that_is_not_served(
    refusal: Any, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async with Client([], settings=SETTINGS) as client:
        ours, theirs = trio.testing.memory_stream_pair()
        client._nursery.start_soon(partial(serve_stream, theirs, client.runtime, refusal=refusal))
        async with RawClient(ours) as raw:
            assert (await raw.answer()).status == refusal.status
    [said] = reasons(caplog)
    if refusal is FULL:
        assert said == "a client got 503: max_connections is 5, and 0 are open"
    else:
        assert "plain text came to a port that speaks TLS" in said


async def test_a_client_that_takes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async with Client(application(tmp_path), settings=SETTINGS, lockstep=True) as client:
        async with RawClient(client.connect()) as raw:
            await raw.send(request("/takes-long"))
            await trio.sleep(20)
    assert reasons(caplog) == ["a client takes nothing of its response for 5 s"]


@pytest.mark.parametrize("what", ["a full server", "another host", "no such route"])
async def test_behind_the_door(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    settings = attrs.evolve(SETTINGS, max_connections=1)
    client = DoorClient(application(tmp_path), settings=settings)
    async with client:
        if what == "a full server":
            client.runtime.sockets = 1
        async with RawClient(client.listener.connect()) as raw:
            path = "/nowhere" if what == "no such route" else "/chat"
            host = "evil.example" if what == "another host" else "localhost"
            await raw.send(handshake(path, [f"Host: {host}"], without="Host"))
            answer = await raw.answer()
        client.runtime.sockets = 0
    expected = {
        "a full server": (503, "got 503: this server is full"),
        "another host": (400, "got 400: this server does not go by the name"),
        "no such route": (403, "403 for /nowhere on websocket.connect"),
    }
    assert answer.status == expected[what][0]
    [said] = reasons(caplog)
    assert expected[what][1] in said


# -- sessions


SIGNING: Any = {"salt": "triochan.sessions", "key_derivation": "hmac", "digest_method": hashlib.sha256}


def signed(secret: str, seconds: float = 0, key: str = "k" * 32) -> str:
    """A session's cookie, as of ``seconds`` from now."""
    signer = itsdangerous.TimestampSigner(secret, **SIGNING)
    now = signer.get_timestamp()
    signer.get_timestamp = lambda: int(now + seconds)  # type: ignore[method-assign]
    return signer.sign(key).decode()


DAY = 24 * 3600
COOKIES: dict[str, tuple[str | tuple[str, float], str]] = {
    "too long": ("x" * 600, "too long: it has 600 characters, and at most 512 are looked at"),
    "malformed": ("nonsense", "malformed: it is no key, time and signature"),
    "no time": ("a.b", "malformed: it is no key, time and signature"),
    "a time out of range": ("a._________w.b", "malformed: it is no key, time and signature"),
    "forged": (
        ("somebody else's secret", -60),
        r"signature: none of 2 secrets has signed it; it says that it is 6\d s old",
    ),
    "expired": (
        (SECRETS[1], -15 * DAY),
        r"expired: secret 1 has signed it, 12960\d\d s ago; max_age is 1209600 s",
    ),
    "in the future": (
        (SECRETS[0], 1000),
        r"in the future: secret 0 has signed it, (?:1000|9\d\d) s from now",
    ),
    "signed, and no time": (
        itsdangerous.Signer(SECRETS[0], **SIGNING).sign("key").decode(),
        "malformed: secret 0 has signed it, and it is no key and time",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", COOKIES)
async def test_a_session_cookie_that_is_passed_over(
    what: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    given, says = COOKIES[what]
    value = given if isinstance(given, str) else signed(*given)

    @http_session
    async def look(message: Message) -> object:
        assert message.http_session is not None
        return text(str(message.http_session.session_key))

    async with Client(Application([route("http.request", look)], secrets=SECRETS)) as client:
        await client.get("/x", headers={"Cookie": f"triochan_session={value}"})
    [said] = reasons(caplog)
    assert re.match(f"a session cookie on '/x' is passed over: {says}", said)
    for secret in [*SECRETS, value]:
        assert secret not in said


def test_one_secret_and_a_cookie_of_no_characters_that_can_be() -> None:
    cookies = SessionCookies(SECRETS[:1])
    assert (
        cookies.why_not("\ud800.x.y") == "malformed: it is no key, time and signature with dots between them"
    )
    assert cookies.why_not(signed("somebody else's secret")).startswith(
        "signature: the secret has not signed it"
    )
    not_ascii = signed(SECRETS[0], key="é")
    assert cookies.why_not(not_ascii) == "malformed: secret 0 has signed it, and it is no key and time"


async def test_many_session_cookies(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    @http_session
    async def look(message: Message) -> object:
        return text("")

    async with Client(Application([route("http.request", look)], secrets=SECRETS)) as client:
        value = signed(SECRETS[0])
        await client.get("/", headers=[("Cookie", f"triochan_session={value}") for _ in range(20)])
    assert any("it has 20 of them, of which 16 are looked at" in said for said in reasons(caplog))


@pytest.mark.parametrize("level", ["debug", "info"])
async def test_a_session_without_a_user_loader(
    level: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(level.upper(), "triochan")

    @http_session_user
    async def begin(message: Message) -> object:
        assert message.http_session is not None
        message.http_session["user_id"] = 5
        return text(str(message.user))

    async with Client(Application([route("http.request", begin)], secrets=SECRETS)) as client:
        assert (await client.get("/")).text == "AnonymousUser"
        assert reasons(caplog) == []  # there was none yet
        await client.get("/")
    expected = "http.request on '/': there is a session, and the application has no user_loader: its user is anonymous"
    assert reasons(caplog) == [expected] * (level == "debug")


async def test_a_session_that_ends_closes_its_sockets_with_a_line(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    class Watching(WebsocketConsumer):
        @channel_and_http_session_user_from_http
        async def connect(self, message: Message, **kwargs: Any) -> None: ...

    @http_session
    async def begin(message: Message) -> object:
        session = message.http_session
        assert session is not None
        if message["path"] == "/end":
            await session.flush()
        else:
            session["a"] = 1
        return text("")

    async with Client(
        Application([Watching.as_route(), route("http.request", begin)], secrets=SECRETS)
    ) as client:
        await client.get("/")
        async with client.websocket("/", headers={"Origin": "http://testserver"}) as socket:
            await client.get("/end")
            assert (await socket.wait_closed()).code == 3000
    assert any(said.endswith("its sockets are closed with 3000") for said in reasons(caplog))


# -- none is forgotten


def test_every_refusal_of_the_source_is_in_a_table() -> None:
    """A new status or code of the server's own has to be given its line, and its place in a table here or there."""
    found = set(_refusals(Path(triochan.__file__).parent))
    tables = "".join(
        (Path(__file__).parent / name).read_text()
        for name in ("test_reasons.py", "test_log_lines.py", "test_access.py")
    )
    missing = {number for number in found if not re.search(rf"\b{number}\b", tables)}
    assert not missing


def _refusals(folder: Path) -> Iterable[int]:
    written = re.compile(
        r"(?:Refusal|_refuse|refuse|deny|_fail|close|HttpError|Event\.\w+)[(,][^\n]{0,40}?\b([1345]\d{2,3})\b"
    )
    for path in folder.rglob("*.py"):
        if "test" not in path.parts and path.name not in ("porting.py",):
            for number in written.findall(path.read_text()):
                if int(number) in range(400, 600) or int(number) in range(1001, 1016):
                    yield int(number)

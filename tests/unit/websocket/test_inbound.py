"""What comes in on one WebSocket: read in turn, in order, and no more of it than there is room for."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
import trustme
from raw_clients import TEXT, RawClient, frame
from served import connection_of, serving
from trio.testing import wait_all_tasks_blocked

from triochan import Settings, route

TLS = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="module")
def certificates() -> TLS:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    server.options |= ssl.OP_NO_RENEGOTIATION
    return server, client


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, certificates: TLS) -> TLS | None:
    return certificates if request.param == "tls" else None


async def echo(message: Any) -> None:
    await message.reply_channel.send({"text": message["text"]})


ROUTING = [route("websocket.receive", echo)]


class Steps:
    """Counts the steps of the server's readers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, readers: Any) -> None:
        self.count = 0
        step = readers._step

        def counted() -> Any:
            self.count += 1
            return step()

        monkeypatch.setattr(readers, "_step", counted)


# -- a peer that does not read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [(4, 2000), (64, 2000), (4, 1_000_000), (1, 1)])
async def test_a_peer_that_sends_much_before_it_reads_gets_every_answer(
    tls: TLS | None, limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inbox and outbox are full at once, reading pauses and goes on, writing blocks and goes on; nothing is stuck."""
    inbox_limit, outbox_limit = limits
    settings = Settings(inbox_limit=inbox_limit, outbox_limit=outbox_limit, ping_interval=0)
    count = 1000
    async with serving(ROUTING, settings=settings) as server:
        async with await server.websocket(tls=tls, send_buffer=4096) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, *[frame(TEXT, f"{n:0>1000}") for n in range(count)])
                await wait_all_tasks_blocked()
                connection = connection_of(server.runtime)
                assert connection.outbox.size
                got = [int(await client.message()) for _ in range(count)]
            assert sorted(got) == list(range(count))
            assert connection.outbox.size == 0
            # What was waited for is not waited for any more: the loop is at rest.
            await wait_all_tasks_blocked()
            steps = Steps(monkeypatch, server.runtime.readers)
            await trio.sleep(0.05)
            assert steps.count < 5


async def test_pings_of_a_peer_that_does_not_read_are_bounded(tls: TLS | None) -> None:
    """Pongs wait for nobody, so it is reading that stops; when they have left it goes on by itself."""
    settings = Settings(outbox_limit=5000, ping_interval=0)
    ping = frame(9, b"x" * 120)
    count = 4000
    async with serving(ROUTING, settings=settings) as server:
        async with await server.websocket(tls=tls, send_buffer=4096) as client:
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    await client.send(*[ping * 100 for _ in range(count // 100)], frame(TEXT, "behind"))

                nursery.start_soon(send)
                await wait_all_tasks_blocked()
                connection = connection_of(server.runtime)
                assert connection.inbound.paused
                assert connection.outbox.size < 100_000
                pongs = 0
                while True:
                    kind, payload = await client.frame()
                    if kind == TEXT:
                        break
                    pongs += 1
            assert (pongs, payload) == (count, b"behind")
            assert not connection.inbound.paused


def sock_of(client: RawClient) -> Any:
    stream: Any = client.stream
    return stream.socket._sock

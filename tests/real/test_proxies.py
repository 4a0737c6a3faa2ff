"""Behind a proxy that speaks the PROXY protocol, over sockets."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trustme

from triochan import Address, Message, Settings, route, serve
from triochan.http import json

V1 = b"PROXY TCP4 203.0.113.7 198.51.100.1 50000 443\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x07\xc6\x33\x64\x01\xc3\x50\x01\xbb"
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def tell(message: Message) -> object:
    return json({"client": message["client"], "server": message["server"], "scheme": message["scheme"]})


@asynccontextmanager
async def server(**options: Any) -> AsyncIterator[Address]:
    options.setdefault("settings", Settings(head_timeout=0.5))
    async with trio.open_nursery() as nursery:
        start = partial(serve, [route("http.request", tell)], port=0, proxy_protocol=True, **options)
        [address] = await nursery.start(start)
        yield address
        nursery.cancel_scope.cancel()


async def everything(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    with trio.fail_after(5):
        while more := await stream.receive_some():
            data += more
    return data


async def asked(address: Address, *pieces: bytes) -> bytes:
    """What comes back for these pieces, each sent by itself."""
    async with await trio.open_tcp_stream(address.host, address.port) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            await stream.send_all(piece)
            await trio.sleep(0.002)
        return await everything(stream)


@pytest.mark.parametrize("header", [V1, V2])
async def test_the_client_is_the_one_that_the_proxy_names(header: bytes) -> None:
    async with server() as address:
        answer = await asked(address, header + REQUEST)
        assert b'"client":["203.0.113.7",50000],"server":["198.51.100.1",443]' in answer


async def test_a_health_check_is_the_proxys_own() -> None:
    async with server() as address:
        assert b'"client":["127.0.0.1",' in await asked(address, LOCAL + REQUEST)


@pytest.mark.parametrize("header", [V1, V2])
async def test_cut_anywhere_it_is_read(header: bytes) -> None:
    async with server() as address:
        for cut in range(1, len(header)):
            answer = await asked(address, header[:cut], header[cut:] + REQUEST)
            assert b'"client":["203.0.113.7",50000]' in answer
        assert b'"client":["203.0.113.7"' in await asked(
            address, *[bytes([each]) for each in header], REQUEST
        )


@pytest.mark.parametrize("data", [REQUEST, b"PROXY TCP4 nonsense\r\n" + REQUEST, b"PROXY TCP4 203.0", b""])
async def test_a_connection_without_one_is_closed_and_the_next_is_served(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with server() as address:
        async with await trio.open_tcp_stream(address.host, address.port) as stream:
            if data:
                await stream.send_all(data)
            if data in (b"", b"PROXY TCP4 203.0"):
                await stream.send_eof()
            try:
                assert await everything(stream) == b""
            except trio.BrokenResourceError:
                pass  # what was not read makes a reset of the close
        assert b'"client":["203.0.113.7"' in await asked(address, V1 + REQUEST)
    [record] = [each for each in caplog.records if each.name == "triochan.server"]
    assert "PROXY protocol" in record.getMessage()
    assert "it is closed" in record.getMessage()


async def test_one_that_says_nothing_is_closed_in_time() -> None:
    async with server(settings=Settings(head_timeout=0.1)) as address:
        assert await asked(address, b"PROXY") == b""


async def test_a_shutdown_does_not_wait_for_it() -> None:
    began = trio.current_time()
    async with server(settings=Settings(head_timeout=30)) as address:
        stream = await trio.open_tcp_stream(address.host, address.port)
        await stream.send_all(b"PROXY")
        await trio.sleep(0.05)
    assert trio.current_time() - began < 5
    await stream.aclose()


async def test_it_stands_before_tls() -> None:
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    async with server(ssl_context=theirs) as address:
        stream = await trio.open_tcp_stream(address.host, address.port)
        await stream.send_all(V2)
        async with trio.SSLStream(stream, ours, server_hostname="127.0.0.1", https_compatible=True) as secure:
            await secure.send_all(REQUEST)
            answer = await everything(secure)
        assert b'"client":["203.0.113.7",50000]' in answer
        assert b'"scheme":"https"' in answer

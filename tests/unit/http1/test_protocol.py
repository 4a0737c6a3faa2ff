"""HTTP/1.1 over memory streams, in virtual time: what a connection carries, and what it does not wait for."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from raw_clients import RawClient
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan import Message, Settings, route
from triochan.http import text
from triochan.test import Client


async def echo(message: Message) -> None:
    await message.reply_channel.send(
        text(f"{message['method']} {message['path']} {message['body'].decode()}")
    )


async def silent(message: Message) -> None:
    pass


async def slow(message: Message) -> None:
    await trio.sleep(5)
    await echo(message)


async def crash(message: Message) -> None:
    raise RuntimeError("on purpose")


async def stream(message: Message) -> None:
    channel = message.reply_channel
    await channel.send({"status": 200, "headers": [("X-Kind", "stream")], "more_content": True})
    for piece in (b"one ", b"", b"two "):
        await trio.sleep(1)
        await channel.send({"content": piece, "more_content": True})
    await channel.send({"content": b"three"})


async def stream_and_crash(message: Message) -> None:
    await message.reply_channel.send({"status": 200, "content": b"half", "more_content": True})
    raise RuntimeError("on purpose")


ROUTING = [
    route("http.request", consumer, path=f"^/{consumer.__name__}$")
    for consumer in (echo, silent, slow, crash, stream, stream_and_crash)
]


@asynccontextmanager
async def talking(**settings: Any) -> AsyncIterator[tuple[RawClient, Client]]:
    async with Client(ROUTING, settings=Settings(**settings)) as client:
        async with RawClient(client.connect()) as raw:
            raw.patience = 1000
            yield raw, client


def request(target: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: testserver", *headers, "", ""]).encode()


async def test_one_request_after_another(autojump_clock: MockClock) -> None:
    async with talking() as (raw, _):
        for number in range(3):
            await raw.send(request(f"/echo?{number}"))
            answer = await raw.answer()
            assert (answer.status, answer.body) == (200, b"GET /echo ")
            assert (answer["server"], "connection" in answer) == ("triochan", False)
        await raw.send(request("/nothing"))
        assert (await raw.answer()).status == 404
        await raw.send(request("/echo", "Connection: close"))
        answer = await raw.answer()
        assert answer["connection"] == "close"
        assert await raw.rest() == b""


async def test_requests_that_do_not_wait_for_answers(autojump_clock: MockClock) -> None:
    async with talking() as (raw, _):
        body = request("/echo", "Content-Length: 4", method="POST") + b"body"
        await raw.send(request("/slow") + body + request("/stream") + request("/echo", "Connection: close"))
        bodies = [(await raw.answer()).body for _ in range(4)]
        assert bodies == [b"GET /slow ", b"POST /echo body", b"one two three", b"GET /echo "]
        assert await raw.rest() == b""


@pytest.mark.parametrize(("path", "length"), [("/echo", "11"), ("/stream", None), ("/nothing", "10")])
async def test_head_has_no_body(path: str, length: str | None, autojump_clock: MockClock) -> None:
    async with talking() as (raw, _):
        await raw.send(request(path, method="HEAD") + request("/echo"))
        answer = await raw.answer(bodiless=True)
        assert dict(answer.headers).get("content-length") == length
        assert (await raw.answer()).body == b"GET /echo "


async def test_a_client_that_asks_before_it_sends_its_body(autojump_clock: MockClock) -> None:
    async with talking() as (raw, _):
        await raw.send(request("/echo", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        assert (await raw.head()).status == 100
        await raw.send(b"body")
        assert (await raw.answer()).body == b"POST /echo body"
        await raw.send(request("/echo", "Expect: 100-continue", "Content-Length: 2000000", method="POST"))
        assert (await raw.answer()).status == 413  # and it is not asked for the body


async def test_chunks_both_ways(autojump_clock: MockClock) -> None:
    async with talking() as (raw, _):
        await raw.send(request("/echo", "Transfer-Encoding: chunked", method="POST"))
        for piece in (b"2\r\nto", b"\r\n4\r\ngeth\r\n", b"2\r\ner\r\n0\r\n\r\n"):
            await raw.send(piece)
        assert (await raw.answer()).body == b"POST /echo together"
        await raw.send(request("/stream"))
        head = await raw.head()
        assert (head["transfer-encoding"], head["x-kind"]) == ("chunked", "stream")
        began = trio.current_time()
        for chunk, at in ((b"4\r\none \r\n", 1), (b"4\r\ntwo \r\n", 3), (b"5\r\nthree\r\n0\r\n\r\n", 3)):
            assert await raw.take(len(chunk)) == chunk
            assert trio.current_time() - began == at


async def test_an_old_client_has_the_stream_to_its_end(autojump_clock: MockClock) -> None:
    async with talking() as (raw, _):
        await raw.send(request("/stream", version="1.0"))
        assert (await raw.answer()).body == b"one two three"


async def test_a_stream_that_breaks_off_does_not_look_complete(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with talking() as (raw, _):
        await raw.send(request("/stream_and_crash"))
        await raw.head()
        assert await raw.rest() == b"4\r\nhalf\r\n"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_crash_is_500_and_the_next_request_is_served(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with talking() as (raw, _):
        await raw.send(request("/crash") + request("/echo"))
        assert (await raw.answer()).status == 500
        assert (await raw.answer()).status == 200
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_no_answer_in_time_is_503(autojump_clock: MockClock) -> None:
    async with talking(response_timeout=7) as (raw, _):
        began = trio.current_time()
        await raw.send(request("/silent"))
        assert (await raw.answer()).status == 503
        assert trio.current_time() - began == 7
        await raw.send(request("/slow"))  # the time counts from the consumer's return
        assert (await raw.answer()).status == 200


async def test_a_consumer_that_takes_too_long_is_500(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with talking(handler_timeout=2) as (raw, _):
        began = trio.current_time()
        await raw.send(request("/slow"))
        assert (await raw.answer()).status == 500
        assert trio.current_time() - began == 2
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("began", [b"", b"GET /echo HT"])
async def test_a_head_that_does_not_come(began: bytes, autojump_clock: MockClock) -> None:
    async with talking(head_timeout=3) as (raw, _):
        start = trio.current_time()
        if began:
            await raw.send(began)
        assert (await raw.answer()).status == 408
        assert trio.current_time() - start == 3
        assert await raw.rest() == b""


async def test_an_idle_connection_is_closed_without_a_word(autojump_clock: MockClock) -> None:
    async with talking(keep_alive_timeout=20, head_timeout=3) as (raw, _):
        await raw.send(request("/echo"))
        await raw.answer()
        await trio.sleep(19)
        start = trio.current_time()
        await raw.send(b"GET")  # from here on it is a head that does not come
        assert (await raw.answer()).status == 408
        assert trio.current_time() - start == 3
    async with talking(keep_alive_timeout=20) as (raw, client):
        await raw.send(request("/echo"))
        await raw.answer()
        start = trio.current_time()
        await wait_all_tasks_blocked()
        [scope] = client.runtime.idle
        assert scope.deadline == start + 20
        assert await raw.rest() == b""


async def test_a_body_that_does_not_come(autojump_clock: MockClock) -> None:
    async with talking(body_timeout=4) as (raw, _):
        start = trio.current_time()
        await raw.send(request("/echo", "Content-Length: 4", method="POST") + b"bod")
        assert (await raw.answer()).status == 408
        assert trio.current_time() - start == 4


async def test_a_client_that_goes_ends_its_consumer(autojump_clock: MockClock) -> None:
    ended: list[float] = []

    async def wait(message: Message) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with Client([route("http.request", wait)], settings=Settings(disconnect_timeout=6)) as client:
        raw = RawClient(client.connect())
        await raw.send(request("/"))
        await wait_all_tasks_blocked()
        start = trio.current_time()
        await trio.aclose_forcefully(raw.stream)
        await trio.sleep(7)
        assert ended == [start + 6]
        assert not client.runtime.layer._endpoints


async def test_a_drain_closes_who_idles_and_lets_the_rest_finish(autojump_clock: MockClock) -> None:
    async with talking() as (raw, client), RawClient(client.connect()) as idle:
        await idle.send(request("/echo"))
        await idle.answer()
        await raw.send(request("/slow") + request("/echo"))
        await wait_all_tasks_blocked()
        client.runtime.draining = True
        assert len(client.runtime.idle) == 1
        for scope in client.runtime.idle:
            scope.cancel()
        assert await idle.rest() == b""
        assert (await raw.answer()).body == b"GET /slow "
        assert await raw.rest() == b""  # the second is not begun

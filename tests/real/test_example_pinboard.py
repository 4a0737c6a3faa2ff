"""The pinboard example: its page, its form and its sockets, in memory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import pytest

from triochan.test import Client, Response

if not os.environ.get("CI"):
    pytest.importorskip("jinja2", reason="the pinboard example needs Jinja: pip install -e '.[examples]'")

import pinboard


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    pinboard.notes.clear()
    async with Client(pinboard.routing) as client:
        yield client


async def pin(client: Client, text: str, colour: str = "pink") -> Response:
    body = urlencode({"text": text, "colour": colour}).encode()
    return await client.post("/", body=body, headers={"Content-Type": "application/x-www-form-urlencoded"})


async def test_a_note_is_on_the_page_and_on_those_that_are_open(client: Client) -> None:
    assert "Nothing is pinned yet." in (await client.get("/")).text
    async with client.websocket("/") as socket:
        assert "Nothing is pinned yet." in (await socket.receive_json())["board"]
        answer = await pin(client, "milk  and bread")
        assert (answer.status, dict(answer.headers)[b"location"]) == (303, b"/")
        assert await socket.receive_json() == {"note": '<li class="note pink">milk and bread</li>'}
    assert '<li class="note pink">milk and bread</li>' in (await client.get("/")).text


async def test_markup_is_text(client: Client) -> None:
    async with client.websocket("/") as socket:
        await socket.receive_json()
        await pin(client, "<script>alert(1)</script>")
        assert "&lt;script&gt;" in (await socket.receive_json())["note"]
    assert "<script>alert" not in (await client.get("/")).text


async def test_who_comes_back_is_sent_the_whole_board(client: Client) -> None:
    await pin(client, "one")
    await pin(client, "two", "blue")
    async with client.websocket("/") as socket:
        board = (await socket.receive_json())["board"]
    assert board.index("two") < board.index("one")


@pytest.mark.parametrize(
    ("text", "colour"), [("", "pink"), (" ", "pink"), ("x" * 201, "pink"), ("x", "red"), ("x", "")]
)
async def test_what_is_no_note_is_refused(client: Client, text: str, colour: str) -> None:
    answer = await pin(client, text, colour)
    assert answer.status == 400
    assert "1 to 200 characters" in answer.text
    assert not pinboard.notes

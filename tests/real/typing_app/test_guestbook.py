"""The guest book's own tests, typed as strictly."""

from __future__ import annotations

import pytest
import trio
from guestbook import application, entries, main, pages

from triochan.exceptions import ConnectionClosed
from triochan.test import Client, HandshakeRefused, WSClient, apply_routes


async def test_a_room_knows_who_speaks() -> None:
    async with Client(application) as client:
        response = await client.post(
            "/login", body="name=Ada", headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert (response.status, response.header("location")) == (303, "/me")
        assert (await client.get("/me")).text == "Ada"
        async with (
            client.websocket("/live/rooms/kitchen/") as ada,
            client.websocket("/live/rooms/kitchen/") as other,
        ):
            assert await ada.receive_json() == {"hello": True}
            await ada.send_json({"type": "say", "text": "Hello"})
            said = {"who": "Ada", "text": "Hello", "count": 1}
            heard = [await ada.receive_json(), await ada.receive_json()]
            assert said in heard
            assert said in [await other.receive_json(), await other.receive_json()]
            await ada.send_json({"type": "shout"})
            answer = await ada.receive()
            assert isinstance(answer, str)
            assert "say" in answer
            await ada.send_json({"type": "leave"})
            closed = await ada.wait_closed()
            assert isinstance(closed, ConnectionClosed)
            assert (closed.code, closed.reason) == (1000, "bye after 2")
        assert (await client.post("/logout")).status == 303
        assert (await client.get("/me")).text == "nobody"
        assert application.state.requests == 4
        assert application.state.greeted == ["kitchen", "kitchen"]


async def test_a_room_may_be_closed() -> None:
    async with Client(application) as client:
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/live/rooms/closed/"):
                raise AssertionError("it was accepted")
        assert refused.value.status == 403


async def test_the_book_and_its_streams() -> None:
    async with Client(application) as client, client.websocket("/live/streams/") as socket:
        assert await socket.receive_json() == {"stream": "numbers", "payload": {"sum": 0}}
        listed = await socket.receive_json()
        assert listed["payload"]["action"] == "list"
        made = (await client.post("/entries", json={"text": "first", "author": "Ada"})).json()
        created = await socket.receive_json()
        assert created["payload"]["data"] == {"text": "first", "author": "Ada"}
        assert (await client.get(f"/entries/{made['id']}")).text == "first"
        assert "<li>first</li>" in (await client.get("/entries?q=fir")).text
        assert (await client.get("/entries/999")).status == 404
        assert (await client.post("/entries", json={"author": "Ada"})).status == 400
        ordered = await client.post("/order", json={"type": "leave"})
        assert ordered.json() == {"type": "leave", "others": []}
        await socket.send_json({"stream": "numbers", "payload": {"a": 1, "b": 2}})
        assert await socket.receive_json() == {"stream": "numbers", "payload": {"sum": 3}}
        await socket.send_json({"stream": "log", "payload": {}})
        assert await socket.receive_json() == {"stream": "log", "payload": {"done": True}}
        await socket.send_json({"stream": "entries", "payload": {"action": "delete", "pk": made["id"]}})
        assert (await socket.receive_json())["error"] == "not permitted"
        await entries.delete(made["id"])


async def test_the_other_clients() -> None:
    async with WSClient(application, "/live/echo/") as socket:
        await socket.send("alone")
        assert (await socket.receive(), socket.subprotocol) == ("alone", None)
    async with apply_routes(pages) as client:
        assert (await client.get("/entries")).status == 200


async def test_it_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(5):
        await main()
    assert "listening on http://127.0.0.1:" in capsys.readouterr().out


async def test_what_needs_no_types() -> None:
    async with Client(application) as client:
        timed = await client.get("/timed")
        assert (timed.text, timed.header("server-timing"), client.cookies["seen"]) == (
            "0",
            "total;dur=1",
            "no",
        )
        assert [(await client.get("/visits")).text for _ in range(2)] == ["1", "2"]
        async with client.websocket("/live/plain/") as plain:
            assert await plain.receive_json() == {"path": "/live/plain/"}
            await plain.send(" [1] ")
            assert await plain.receive_json() == {"said": [1]}
        async with client.websocket("/live/echo/") as echo:
            await echo.send("text")
            assert await echo.receive() == "text"
            await echo.send(b"bytes")
            assert await echo.receive() == b"bytes"
            assert (await echo.wait_closed()).code == 1000
        async with client.websocket("/live/functions/x/") as socket:
            await socket.send("hello")
            assert await socket.receive() == "x nobody: hello"

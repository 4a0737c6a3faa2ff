"""Who is here, in real browsers: several people, several tabs, and a connection that is lost and comes back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
from browsers import open_windows

from triochan import Application, Message, Presence, route, route_class
from triochan.generic.websockets import JsonWebsocketConsumer
from triochan.http import client_route, html
from triochan.test import LiveServer

PAGE = """<!doctype html>
<title>Who is here</title>
<script type="importmap">{"imports": {"triochan": "/triochan/client.js"}}</script>
<style>body { font: 20px sans-serif; margin: 2rem } li.away { opacity: 0.5 }</style>
<h1>Who is here</h1>
<ul></ul>
<script type="module">
import { TriochanClient } from "triochan";

window.told = [];
const client = (window.client = new TriochanClient("/ws/" + location.search, { backoffBase: 20 }));
const room = (window.room = client.presence("room.1"));
for (const type of ["join", "leave", "update"]) {
  room.addEventListener(type, ({ detail: { key, first, last } }) => told.push([type, key, first ?? last ?? null]));
}
room.addEventListener("sync", () => {
  document.querySelector("ul").replaceChildren(...Object.entries(room.list()).map(([key, metas]) => {
    const item = document.createElement("li");
    item.className = metas.every(({ status }) => status === "away") ? "away" : "";
    item.textContent = key + (metas.length > 1 ? ` (${metas.length} tabs)` : "") + (item.className && ", away");
    return item;
  }));
});
client.connect();
</script>
"""


class Room(JsonWebsocketConsumer):
    async def connect(self, message: Message, /, **kwargs: Any) -> None:
        self.connection.state.name = message["query_string"].decode()
        await self.track("room.1", self.connection.state.name, {"status": "here"})

    async def receive(self, content: Any, /, **kwargs: Any) -> None:
        if content == "drop":
            await self.close(1012)
        else:
            await self.presence("room.1").update(self.connection.state.name, {"status": content})


async def page(message: Message) -> dict[str, Any]:
    return html(PAGE)


@pytest.mark.browser
@pytest.mark.slow
async def test_in_browsers() -> None:
    def look(address: str) -> None:
        with open_windows(2) as [ada, bob]:
            ada.open(f"{address}/?ada")
            ada.wait_for("li", "ada")
            bob.open(f"{address}/?bob")
            ada.wait_for("li", "ada", "bob")
            bob.wait_for("li", "ada", "bob")

            # A second tab of the same person, which goes away.
            first = ada.driver.current_window_handle
            ada.driver.switch_to.new_window("tab")
            ada.open(f"{address}/?ada")
            bob.wait_for("li", "ada (2 tabs)", "bob")
            ada.run("client.send('away')")
            bob.wait(lambda: bob.run("return told.some(([type]) => type === 'update')"), "the update")
            if where := os.environ.get("SCREENSHOTS"):
                bob.driver.save_screenshot(str(Path(where) / "presence.png"))
            ada.driver.close()
            ada.driver.switch_to.window(first)
            bob.wait_for("li", "ada", "bob")
            assert bob.run("return told") == [
                ["join", "ada", True],
                ["join", "bob", True],
                ["join", "ada", False],
                ["update", "ada", None],
                ["leave", "ada", False],
            ]

            # Lost and back: the list is taken anew, and tells of what has happened meanwhile.
            ada.run("client.send('away')")
            bob.wait_for("li", "ada, away", "bob")
            bob.run("told.length = 0; client.send('drop')")
            bob.wait(lambda: bob.run("return room.synced && told.length === 2"), "back again")
            assert bob.run("return told") == [["join", "bob", False], ["leave", "bob", False]]
            bob.wait_for("li", "ada, away", "bob")
            ada.open("about:blank")
            bob.wait_for("li", "bob")
            for window in (ada, bob):
                assert window.errors(but=("favicon.ico",)) == []

    routing = [
        client_route(),
        route("http.request", page, path="^/$"),
        route_class(Room, path="^/ws/$"),
    ]
    async with LiveServer(Application(routing)) as server:
        await trio.to_thread.run_sync(look, server.url)
        with trio.fail_after(5):
            while await Presence("room.1").list():  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.01)

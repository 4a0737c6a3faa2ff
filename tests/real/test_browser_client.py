"""The browser client in a browser, at a server: what stand-ins for a WebSocket can't show."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import pytest
import trio
from browsers import Window, open_windows

from triochan import Application, Message, route, route_class
from triochan.generic.headers_first import HeadersFirst
from triochan.http import client_route, html, text
from triochan.test import LiveServer

PAGE = """<!doctype html>
<title>The browser client</title>
<script type="importmap">{"imports": {"triochan": "/triochan/client.js"}}</script>
<script type="module">
import { TriochanClient } from "triochan";

window.seen = [];
window.persisted = false;
window.addEventListener("pageshow", (event) => (window.persisted = event.persisted));
const client = (window.client = new TriochanClient("/ws/", {
  backoffBase: 20,
  protocols: async () => ["v1", "v2"],
  headers: async ({ signal }) => ({ Authorization: await (await fetch("/token", { signal })).text() }),
  beforeFlush: ({ outbox, send, signal }) =>
    new Promise((resolve) => {
      client.listen(({ joined }) => joined && resolve(outbox.filter((message) => message !== '"typing"')), { signal });
      send({ join: "lobby" });
    }),
}));
for (const type of ["open", "dropped", "close", "error"]) {
  client.addEventListener(type, ({ detail }) => window.seen.push([type, detail]));
}
client.send("typing");
client.send("hello");
client.connect();
</script>
"""


class Room(HeadersFirst):
    """Takes each token once, and notes what it hears."""

    fresh: ClassVar[set[str]] = set()
    heard: ClassVar[list[list[Any]]] = []

    async def connect(self, message: Message, /, *args: Any, **kwargs: Any) -> None:
        assert message["subprotocols"] == ["v1", "v2"]
        await message.reply_channel.send({"accept": True, "subprotocol": "v2"})

    async def receive_headers(self, headers: dict[str, str], /, *args: Any, **kwargs: Any) -> None:
        token = headers["authorization"]
        if token not in self.fresh:
            await self.close(4401, "an old token")
            return
        self.fresh.remove(token)
        self.heard.append([token])

    async def receive(self, content: Any, /, *args: Any, **kwargs: Any) -> None:
        self.heard[-1].append(content)
        if content == "restart":
            await self.close(1012)
        elif "join" in content:
            await self.send({"joined": content["join"]})


@pytest.mark.browser
@pytest.mark.slow
async def test_in_a_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh: set[str] = set()
    heard: list[list[Any]] = []
    monkeypatch.setattr(Room, "fresh", fresh)
    monkeypatch.setattr(Room, "heard", heard)
    numbers = itertools.count(1)

    async def token(message: Message) -> dict[str, Any]:
        made = f"token {next(numbers)}"
        fresh.add(made)
        return text(made)

    async def page(message: Message) -> dict[str, Any]:
        return html(PAGE)

    async def elsewhere(message: Message) -> dict[str, Any]:
        return html("<!doctype html><title>Elsewhere</title>")

    routing = [
        client_route(),
        route("http.request", page, path="^/$"),
        route("http.request", token, path="^/token$"),
        route("http.request", elsewhere, path="^/elsewhere$"),
        route_class(Room, path="^/ws/$"),
    ]

    def look(address: str) -> None:
        with open_windows(1) as [window]:
            assert isinstance(window, Window)
            window.open(f"{address}/")
            window.wait(lambda: window.run("return window.client?.state") == "open", "open")
            window.wait(lambda: heard == [["token 1", {"join": "lobby"}, "hello"]], "the first connection")
            seen = window.run("return seen")
            assert [type for type, _ in seen] == ["dropped", "open"]
            assert seen[0][1] == {"messages": ['"typing"']}

            # Lost and back, with a fresh token.
            window.run("client.send('restart')")
            window.wait(lambda: heard[1:] == [["token 2", {"join": "lobby"}]], "the second connection")
            window.wait(lambda: window.run("return client.state") == "open", "open again")
            assert window.run("return seen.at(-1)") == ["open", {"reconnected": True}]

            # Put away whole, and back as it was: the page's script has not run again.
            window.open(f"{address}/elsewhere")
            window.run("history.back()")
            window.wait(lambda: window.run("return window.client?.state") == "open", "open after all")
            assert window.run("return window.persisted"), "the page was not in the back/forward cache"
            window.wait(lambda: heard[2:] == [["token 3", {"join": "lobby"}]], "the third connection")

            # Bytes come and go where both ends are told so; a final code is final.
            window.run("client.close(4000, 'enough')")
            window.wait(lambda: window.run("return client.state") == "closed", "closed")
            closed = window.run("return seen.at(-1)")
            assert closed[0] == "close"
            assert (closed[1]["code"], closed[1]["reason"], closed[1]["wasClean"]) == (4000, "enough", True)
            assert window.run("return seen.filter(([type]) => type === 'error')") == []
            assert window.errors(but=("WebSocket connection to", "favicon.ico")) == []

    async with LiveServer(Application(routing)) as server:
        await trio.to_thread.run_sync(look, server.url)

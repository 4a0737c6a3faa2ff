"""The live blog example: who sees and may do what, in memory; and its pages in two real browsers."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from browsers import EXAMPLES, Process, Window, open_windows

from triochan.test import Client, TestWebsocket

pytest.importorskip("sqlalchemy", reason="the live blog needs SQLAlchemy: pip install -e '.[sqlalchemy]'")

ORIGIN = {"Origin": "http://testserver", "Content-Type": "application/x-www-form-urlencoded"}


# -- in memory


@pytest.fixture
def liveblog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example, with a database of its own."""
    monkeypatch.setenv("LIVEBLOG_DATABASE", str(tmp_path / "liveblog.sqlite3"))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("liveblog")
    yield module
    module.consumers.database.close()
    for name in [each for each in sys.modules if each.partition(".")[0] == "liveblog"]:
        del sys.modules[name]


async def log_in(client: Client, password: str = "letmein") -> int:
    response = await client.post("/desk", headers=ORIGIN, body=f"password={password}")
    return response.status


class Socket:
    """A page, and what it knows: objects by stream and key."""

    def __init__(self, websocket: TestWebsocket) -> None:
        self.websocket = websocket
        self.known: dict[str, dict[int, Any]] = {"posts": {}, "values": {}}
        self.readers = 0
        self.actions: list[tuple[str, str]] = []

    async def take(self) -> dict[str, Any]:
        """The next frame, acted upon."""
        with trio.fail_after(5):
            frame: dict[str, Any] = await self.websocket.receive_json()
        if "error" in frame:
            return frame
        stream, payload = frame["stream"], frame["payload"]
        if stream == "audience":
            self.readers = payload["readers"]
            return frame
        self.actions.append((stream, payload["action"]))
        objects = self.known[stream]
        if payload["action"] == "list":
            objects.clear()
            objects.update({each["pk"]: each["data"] for each in payload["items"]})
        elif payload["action"] == "delete":
            objects.pop(payload["pk"], None)
        else:
            objects[payload["pk"]] = payload["data"]
        return frame

    async def until(self, stream: str, action: str) -> Any:
        while (stream, action) not in self.actions:
            await self.take()
        self.actions.remove((stream, action))
        return self.known[stream]

    async def ask(self, stream: str, **payload: Any) -> None:
        await self.websocket.send_json({"stream": stream, "payload": payload})

    async def refused(self) -> dict[str, Any]:
        while "error" not in (frame := await self.take()):
            pass
        return frame


@asynccontextmanager
async def page(client: Client, path: str) -> Any:
    async with client.websocket(path) as websocket:
        socket = Socket(websocket)
        await socket.until("posts", "list")
        await socket.until("values", "list")
        yield socket


async def test_readers_see_what_is_published(liveblog: ModuleType) -> None:
    async with Client(liveblog.application) as client:
        assert await log_in(client) == 303
        async with page(client, "/desk/live") as desk, page(client, "/live") as reader:
            while desk.readers != 1:
                await desk.take()
            await desk.ask("posts", action="create", data={"headline": "One", "text": " first "})
            [(pk, post)] = (await desk.until("posts", "create")).items()
            assert (post["text"], post["published"]) == ("first", False)
            await desk.ask("values", action="create", data={"name": "Score", "value": 3})
            assert list((await reader.until("values", "create")).values()) == [{"name": "Score", "value": 3}]
            assert reader.known["posts"] == {}  # a draft is the desk's alone

            await desk.ask("posts", action="update", pk=pk, data={"published": True})
            assert (await reader.until("posts", "create"))[pk]["headline"] == "One"
            await desk.ask("posts", action="update", pk=pk, data={"pinned": True})
            assert (await reader.until("posts", "update"))[pk]["pinned"]
            await desk.ask("posts", action="update", pk=pk, data={"published": False, "text": "a secret"})
            assert await reader.until("posts", "delete") == {}
            assert (await desk.until("posts", "update"))[pk]["text"]

            async with page(client, "/live") as late:
                assert (late.known["posts"], len(late.known["values"])) == ({}, 1)


async def test_the_desk_is_told_what_was_wrong(liveblog: ModuleType) -> None:
    async with Client(liveblog.application) as client:
        await log_in(client)
        async with page(client, "/desk/live") as desk:
            await desk.ask("values", action="create", data={"name": "Score"})
            await desk.until("values", "create")
            refused: list[tuple[str, dict[str, Any], str]] = [
                ("posts", {"action": "create", "data": {"text": "  "}}, "A post has a text."),
                ("posts", {"action": "create", "data": {"text": "x" * 4001}}, "4000 characters"),
                ("posts", {"action": "create", "data": {"text": "x", "time": 7}}, "$.data.time: no field"),
                ("values", {"action": "create", "data": {"name": "Score"}}, "conflicts with other data"),
                ("values", {"action": "update", "pk": 1, "data": {"value": 10**12}}, "A number lies between"),
                (
                    "values",
                    {"action": "update", "pk": 1, "data": {"value": 1.5}},
                    "a whole number is expected",
                ),
            ]
            for stream, asked, details in refused:
                await desk.ask(stream, **asked)
                answer = await desk.refused()
                assert answer["stream"] == stream
                assert details in str(answer["details"]), answer
            assert list(desk.known["values"].values()) == [{"name": "Score", "value": 0}]


async def test_who_does_not_know_the_password_does_nothing(liveblog: ModuleType) -> None:
    async with Client(liveblog.application) as client:
        assert await log_in(client, "guess") == 422
        assert "Password" in (await client.get("/desk")).text
        elsewhere = {**ORIGIN, "Origin": "http://elsewhere.example"}
        assert (await client.post("/desk", headers=elsewhere, body="password=letmein")).status == 403
        async with client.websocket("/desk/live") as websocket:
            closed = await websocket.wait_closed()
            assert closed.code == 4401
        async with page(client, "/live") as reader:
            for stream in ("posts", "values"):
                await reader.ask(stream, action="create", data={"text": "x", "name": "x"})
                assert (await reader.refused())["error"]
            assert reader.known == {"posts": {}, "values": {}}


async def test_logging_out_closes_the_desk(liveblog: ModuleType) -> None:
    async with Client(liveblog.application) as client:
        await log_in(client)
        assert "composer" in (await client.get("/desk")).text
        async with page(client, "/desk/live") as desk:
            assert (await client.post("/desk/logout", headers=ORIGIN)).status == 303
            closed = await desk.websocket.wait_closed()
            assert closed.code == 3000
        assert "Password" in (await client.get("/desk")).text


async def test_the_pages_fetch_nothing_from_elsewhere(liveblog: ModuleType) -> None:
    async with Client(liveblog.application) as client:
        for path in ("/", "/desk"):
            response = await client.get(path)
            assert "default-src 'self'" in (response.header("Content-Security-Policy") or "")
            for linked in re.findall(r'(?:src|href)="(/[^"]+)"', response.text):
                assert (await client.get(linked)).status == 200, linked
    for file in (EXAMPLES / "liveblog" / "page").iterdir():
        elsewhere = re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]+[^\s\"']*", file.read_text("utf-8"))
        assert set(elsewhere) <= {"http://www.w3.org/2000/svg"}, file


# -- in real browsers, against a server in a process of its own


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process("liveblog:application", {"LIVEBLOG_DATABASE": str(tmp_path / "liveblog.sqlite3")})
    process.start()
    yield process
    process.kill()


@pytest.fixture
def windows() -> Iterator[list[Window]]:
    with open_windows(2) as windows:
        yield windows


def enter_desk(desk: Window, url: str) -> None:
    desk.open(f"{url}/desk")
    desk.element("#password").send_keys("letmein\ue007")
    desk.wait_for("#state", "Online")


def write(desk: Window, headline: str, text: str, button: str = "publish") -> None:
    desk.element("#headline").send_keys(headline)
    desk.element("#text").send_keys(text)
    desk.element(f"#composer [name={button}]").click()


def numbers(desk: Window) -> list[str]:
    return list(desk.run("return [...document.querySelectorAll('#values input')].map((each) => each.value)"))


def set_number(desk: Window, number: int) -> None:
    desk.element("#values input").send_keys(f"\ue009a\ue000{number}\ue007")  # Ctrl-A, and Enter at the end


@pytest.mark.browser
@pytest.mark.slow
def test_two_browsers(windows: list[Window], process: Process) -> None:
    desk, reader = windows
    enter_desk(desk, process.url)
    reader.open(process.url)
    reader.wait_for("#state", "Live")
    desk.wait_for("#audience", "1 reader")
    assert reader.element("#nothing").is_displayed()

    # A post appears as it is published, and markup is text; a draft does not, until it is published too.
    write(desk, "We are off", "<b>Slowly</b> & surely")
    for window in windows:
        window.wait_for(".post h2", "We are off")
        window.wait_for(".post .text", "<b>Slowly</b> & surely")
    write(desk, "Not yet", "Wait for it.", "draft")
    desk.wait_for(".post h2", "Not yet", "We are off")
    assert reader.texts(".post h2") == ["We are off"]
    desk.element(".post:has(.draft:not([hidden])) .publish").click()
    reader.wait_for(".post h2", "Not yet", "We are off")

    # It is edited and pinned, and another one taken down.
    last = ".post:last-of-type "
    desk.element(last + ".pin").click()
    desk.wait_for(".post h2", "We are off", "Not yet")
    desk.element(".post .edit").click()
    desk.element(".editor [name=text]").clear()
    desk.element(".editor [name=text]").send_keys("Slowly.")
    desk.element(".editor .primary").click()
    reader.wait_for(".post .text", "Slowly.", "Wait for it.")
    reader.wait_for(".chip", "Key moment")
    desk.element(last + ".publish").click()
    reader.wait_for(".post h2", "We are off")

    # Numbers.
    desk.element("#value-name").send_keys("Score\ue007")
    reader.wait_for("#values dd", "0")
    desk.element("#values .more").click()
    reader.wait_for("#values dd", "1")
    set_number(desk, 1234)
    reader.wait_for("#values dd", "1,234")
    desk.element("#value-name").send_keys("Score\ue007")
    desk.wait(lambda: "conflicts" in desk.element("#value-problem").text, "a second Score was not refused")

    # The server dies, with a post on its way to it. Both pages say so.
    process.hang()
    write(desk, "Lost?", "On its way.")
    assert desk.element("#text").get_property("value") == ""
    process.kill()
    for window in windows:
        window.wait_for("#state", "Offline")
        assert window.element("#banner").is_displayed()
    assert not desk.element("#values .more").is_enabled()

    # It comes back, and so do they: logged in still, with the present state, and with the post, to be sent again.
    process.start()
    for window, word in zip(windows, ("Online", "Live"), strict=True):
        window.wait_for("#state", word)
        assert not window.element("#banner").is_displayed()
    desk.wait(
        lambda: desk.element("#text").get_property("value") == "On its way.",
        "the lost post did not come back",
    )
    desk.wait_for(".post h2", "We are off", "Not yet")
    assert numbers(desk) == ["1234"]
    desk.element("#composer [name=publish]").click()
    reader.wait_for(".post h2", "We are off", "Lost?")
    reader.wait_for("#values dd", "1,234")

    # What changes while a reader is away is there when they are back.
    reader.open("about:blank")
    desk.wait_for("#audience", "0 readers")
    delete = ".post:has(.live:not([hidden])) .delete"
    desk.element(delete).click()
    desk.element(delete).click()  # sure
    desk.wait_for(".post h2", "Lost?", "Not yet")
    desk.element("#values .less").click()
    reader.open(process.url)
    reader.wait_for("#values dd", "1,233")
    reader.wait_for(".post h2", "Lost?")

    # Somebody logs out.
    desk.element("header form button").click()
    desk.wait(lambda: desk.driver.current_url == f"{process.url}/", "logging out led nowhere")
    desk.open(f"{process.url}/desk")
    assert desk.element("#password").is_displayed()
    for window in windows:
        assert window.errors() == []


def one_post(window: Window) -> bool:
    return len(window.texts(".post")) == 1


@pytest.mark.browser
@pytest.mark.slow
def test_the_pages_fit_a_phone(windows: list[Window], process: Process, tmp_path: Path) -> None:
    desk, reader = windows
    enter_desk(desk, process.url)
    reader.open(process.url)
    desk.element("#value-name").send_keys("W" * 30 + "\ue007")
    desk.wait(lambda: numbers(desk) == ["0"])
    set_number(desk, -999999999)
    write(desk, "W" * 100, "w" * 500)
    desk.wait_for("#values .name", "W" * 30)
    for window, name in ((desk, "desk"), (reader, "blog")):
        window.wait(partial(one_post, window), "the post is not there")
        for dark in (False, True):
            window.emulate(width=320, height=640, phone=True, dark=dark)
            assert window.run("return document.documentElement.scrollWidth") == 320, name
            assert window.driver.save_screenshot(str(tmp_path / f"{name}-{dark}.png"))

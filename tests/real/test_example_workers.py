"""The workers example: jobs by clients in memory."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from triochan.test import Client


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> Any:
    import workers

    monkeypatch.setattr(workers, "SECONDS", 0.1)
    async with Client(workers.routing) as client:
        yield client


async def test_progress_comes_back_to_the_window_that_asked(client: Client) -> None:
    import workers

    async with client.websocket("/jobs/") as ada, client.websocket("/jobs/") as other:
        assert await ada.receive_json() == await other.receive_json() == {"serving": workers.ME}
        await ada.send_json({"type": "upload", "job": "1", "text": "to be or not to be"})
        heard: list[Any] = []
        while not heard or heard[-1]["done"] < 1:
            heard.append(await ada.receive_json())
        assert [each["done"] for each in heard] == [step / workers.STEPS for step in range(workers.STEPS + 1)]
        assert {(each["job"], each["worker"]) for each in heard} == {("1", workers.ME)}
        assert (heard[-1]["words"], heard[-1]["most"][0]) == (6, ["to", 2])
        with pytest.raises(trio.TooSlowError), trio.fail_after(1):
            await other.receive_json()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"type": "upload", "job": "1"}, "missing"),
        ({"type": "upload", "job": 1, "text": "x"}, "$.job"),
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


async def test_the_window_is_gone_and_the_job_is_done(client: Client, caplog: Any) -> None:
    import workers

    async with client.websocket("/jobs/") as ada:
        await ada.receive_json()
        await ada.send_json({"type": "upload", "job": "1", "text": "a b"})
        await ada.receive_json()
    await trio.sleep(2 * workers.SECONDS)
    assert not [each for each in caplog.records if each.levelname in ("ERROR", "WARNING")]


async def test_the_page(client: Client) -> None:
    assert "<title>Workers</title>" in (await client.get("/")).text
    for path in ("/static/workers.js", "/static/workers.css", "/static/icon.svg", "/triochan/client.js"):
        assert (await client.get(path)).status == 200

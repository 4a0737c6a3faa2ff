"""``triochan dead-letters`` on a valkey-server of the test's own."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from engines import EngineProcess, engine

from triochan import Channel, Settings
from triochan.cli import main
from triochan.layers.redis import RedisLayer

pytestmark = pytest.mark.engine
PASSWORD = "s3cr3t"


@pytest.fixture(scope="module")
def running_engine() -> Iterator[EngineProcess]:
    with engine("--requirepass", PASSWORD) as process:
        process.url = f"unix://:{PASSWORD}@{process.path}"
        yield process


@pytest.fixture
def ids(running_engine: EngineProcess) -> list[str]:
    """Two dead letters of one channel and one of another."""
    contents: list[dict[str, Any]] = [
        {"number": 1, "at": dt.datetime(2026, 1, 2), "odd": [float("nan"), b"\x00", None, {"a": True}]},
        {"number": 2, "text": "\x1b[31mred\nline" + "x" * 200},
    ]

    async def fail() -> list[str]:
        layer = RedisLayer(running_engine.url, Settings(channel_attempts=1))
        async with layer.running():
            await layer.engine.ask(layer.engine.client.flushall())
            for channel in ("jobs", "show"):
                for content in contents if channel == "jobs" else contents[:1]:
                    await Channel(channel).send(content)
                    await (await layer.receive(channel, durable=True)).give_back(
                        "f raised ValueError: \x1bit é"
                    )
            return [each.id for each in await layer.dead_letters()]

    return trio.run(fail)


class Command:
    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self._capsys = capsys

    def __call__(self, *arguments: str, layer: str | None = None) -> tuple[int, str, str]:
        """Exit status, standard output and error."""
        given = ["--layer", layer or self.url] if layer != "" else []
        try:
            status = main(["dead-letters", *given, *arguments])
        except SystemExit as error:
            status = int(str(error.code))
        out, err = self._capsys.readouterr()
        assert PASSWORD not in out + err
        return status, out, err


@pytest.fixture
def run(
    running_engine: EngineProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.delenv("TRIOCHAN_LAYER", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    return Command(running_engine.url, capsys)


def test_it_lists(run: Command, ids: list[str]) -> None:
    status, out, err = run()
    assert (status, err) == (0, "")
    first, second, third = out.splitlines()
    assert first.startswith(f"{ids[0]}  20")
    assert "  1x  f raised ValueError: \\x1bit é  {'number': 1, 'at': datetime" in first
    assert [each.split("  ")[0] for each in (first, second, third)] == ids
    assert len(second) == 160
    assert "\x1b" not in out
    assert run("show")[0] == 2  # a word of the command's own
    assert run("list", "show")[1] == third + "\n"
    assert run("jobs")[1].count("\n") == 2
    assert run("others") == (0, "no dead letters\n", "")


def test_it_lists_for_programs(run: Command, ids: list[str]) -> None:
    letters = json.loads(run("--json")[1])
    assert [each["id"] for each in letters] == ids
    first = letters[0]
    assert (first["channel"], first["attempts"], first["error"]) == (
        "jobs",
        1,
        "f raised ValueError: \x1bit é",
    )
    assert first["content"] == {
        "number": 1,
        "at": "datetime.datetime(2026, 1, 2, 0, 0)",
        "odd": ["nan", "b'\\x00'", None, {"a": True}],
    }
    dt.datetime.fromisoformat(first["failed"])


def test_it_shows_one(run: Command, ids: list[str]) -> None:
    status, out, err = run("show", ids[1])
    assert (status, err) == (0, "")
    assert f"id        {ids[1]}\nchannel   jobs\n" in out
    assert "attempts  1\nerror     f raised ValueError: \\x1bit é\ncontent\n  {'number': 2," in out
    assert "\x1b" not in out
    assert json.loads(run("show", ids[1], "--json")[1])["id"] == ids[1]


def test_it_sends_again(run: Command, ids: list[str], running_engine: EngineProcess) -> None:
    assert run("send-again", ids[0]) == (0, "1 sent again\n", "")
    assert run("send-again", ids[0]) == (
        1,
        "0 sent again\n",
        f"triochan: error: there is no dead letter {ids[0]!r}\n",
    )
    assert json.loads(run("send-again", "--all", "--json")[1]) == {"sent_again": ids[1:]}
    assert run() == (0, "no dead letters\n", "")

    async def take() -> list[int]:
        layer = RedisLayer(running_engine.url)
        async with layer.running():
            return [(await layer.receive("jobs")).content["number"] for _ in range(2)]

    assert trio.run(take) == [1, 2]


def test_it_deletes(run: Command, ids: list[str]) -> None:
    assert run("delete", "--all", "jobs") == (0, "2 deleted\n", "")
    assert run()[1].startswith(ids[2])
    assert json.loads(run("delete", ids[2], "--json")[1]) == {"deleted": [ids[2]]}
    assert run("delete", "--all") == (0, "0 deleted\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sendagain", "x"], "did you mean send-again?"),
        (["a", "b"], "one channel at a time, or none for all, not a b; what may be done is list, show"),
        (["jobs/1-0"], "'jobs/1-0' is a dead letter, not a channel: show jobs/1-0"),
        (["show"], "show what? It takes what the list has in front, such as jobs/1764077000123-0\n"),
        (
            ["delete"],
            "delete what? It takes what the list has in front, such as jobs/1764077000123-0, or --all",
        ),
        (["show", "a/1-0", "a/2-0"], "show takes one dead letter"),
        (["--all"], "--all goes with send-again and delete; list has none"),
        (["delete", "--all", "a/1-0"], "leave out --all, or name a channel"),
        (["a b"], "channel name"),
        (["--jsno"], "did you mean --json?"),
        (["--layer-timeout", "x"], "a number of seconds above 0 is expected, not 'x'"),
        (["--layer-timeout", "inf"], "a number of seconds above 0 is expected, not 'inf'"),
    ],
)
def test_what_is_wrong_is_said(run: Command, words: list[str], said: str) -> None:
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert said in err
    assert err.endswith("Try 'triochan dead-letters --help'.\n")


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("", "which engine? --layer redis://localhost:6379/0, or the variable TRIOCHAN_LAYER"),
        ("memory://", "is in the server's own process"),
        ("localhost", "a layer is named by a URL"),
        (f"http://user:{PASSWORD}@localhost", "the URL of an engine begins with one of redis://"),
    ],
)
def test_an_engine_that_is_none(run: Command, layer: str, said: str) -> None:
    status, out, err = run(layer=layer)
    assert (status, out) == (2, "")
    assert said in err


def test_the_engine_may_stand_in_the_environment(
    run: Command, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIOCHAN_LAYER", run.url)
    assert run(layer="")[1].startswith(ids[0])
    assert run("--layer-prefix", "other", layer="")[1] == "no dead letters\n"


def test_an_engine_that_is_not_there(run: Command, tmp_path: object) -> None:
    status, out, err = run("--layer-timeout", "0.2", layer=f"unix://:{PASSWORD}@{tmp_path}/none.sock")
    assert (status, out) == (1, "")
    assert "triochan: error: no engine at unix://:***@" in err
    assert "Traceback" not in err


def test_a_letter_that_is_none(run: Command, ids: list[str]) -> None:
    for id in ("jobs/1-0", "jobs", "x"):
        assert run("show", id) == (1, "", f"triochan: error: there is no dead letter {id!r}\n")


def test_help(run: Command) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert "triochan dead-letters --layer URL" in out
    assert "exit status:" in out

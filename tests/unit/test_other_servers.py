"""What other servers call their options."""

from __future__ import annotations

import re

import pytest

from triochan import other_servers
from triochan.options import make_parser

KNOWN = {option for action in make_parser()._actions for option in action.option_strings}


def test_what_is_named_is_there() -> None:
    for flag, elsewhere in other_servers.OPTIONS.items():
        named = re.findall(r"--[a-z][a-z-]+", elsewhere.here)
        assert set(named) <= KNOWN, flag
        assert named or not elsewhere.here.startswith("--")


def test_no_option_of_triochan_s_own_is_explained_away() -> None:
    """argparse takes it first: nobody would ever read that."""
    assert not other_servers.OPTIONS.keys() & KNOWN


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-w4"], "-w of hypercorn and gunicorn is --workers here"),
        (["--preload"], "--preload of gunicorn is --workers: each worker is a fresh process "),
        (["--certfile=x"], "--certfile of hypercorn and gunicorn is --ssl-certfile here"),
        (["--unix-socket", "x"], "--unix-socket of daphne is --uds here"),
        (
            ["--http-timeout", "3"],
            "--http-timeout of daphne is --response-timeout, or --handler-timeout here",
        ),
        (
            ["--proxy-headers"],
            "--proxy-headers of uvicorn and daphne is --forwarded-allow-ips, which says whose",
        ),
        (["--loop", "uvloop"], "--loop of uvicorn is not here: there is one way, on Trio"),
        (["--ws-max-size", "3"], "--ws-max-size of uvicorn is --max-message-size here"),
        (["--timeout-keep-alive", "3"], "--timeout-keep-alive of uvicorn is --keep-alive-timeout here"),
        (["--limit-concurrency", "3"], "--limit-concurrency of uvicorn is --max-connections here"),
        (["-u", "x"], "-u of daphne, hypercorn and gunicorn is --uds ("),
        (["-e", "ssl:443"], "-e of daphne is "),
        (["--prot", "1", "--keyfile", "4"], "did you mean --port?"),
    ],
)
def test_who_comes_from_there_is_told_the_name_here(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(["a:b", *arguments])
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert said in text
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize("flag", ["--xyzzy", "-y", "-", "", "--w"])
def test_nothing_is_said_of_others(flag: str) -> None:
    assert other_servers.hint(flag) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["route", "a:b"], "there is no command 'route': did you mean triochan routes?"),
        (["serve", "a:b"], "there is no command 'serve': triochan module:name serves, without one"),
        (
            ["--port", "1", "check", "a:b"],
            "the word check stands in front of everything else: triochan check ...",
        ),
        (["a:b", "c:d"], "unrecognized arguments: c:d\n"),
    ],
)
def test_words_that_are_no_commands(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(arguments)
    assert said in capsys.readouterr().err

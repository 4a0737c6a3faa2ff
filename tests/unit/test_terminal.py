"""What a stream is."""

from __future__ import annotations

import io
import os
import sys

import pytest

from triochan.terminal import columns, in_colors, is_terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


CLOSED = io.StringIO()
CLOSED.close()


def test_a_terminal() -> None:
    assert is_terminal(Terminal())
    assert not is_terminal(io.StringIO())
    assert not is_terminal(CLOSED)
    assert not is_terminal(None)


@pytest.mark.parametrize(
    ("stream", "environ", "colors"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (io.StringIO(), {}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": ""}, False),
        (io.StringIO(), {"FORCE_COLOR": "1", "TERM": "dumb"}, True),
        (CLOSED, {}, False),
    ],
)
def test_colours(stream: io.StringIO, environ: dict[str, str], colors: bool) -> None:
    assert in_colors(stream, environ) == colors


def test_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    assert columns(sys.stdout) == 77
    for said in ("", "0", "wide", "²"):
        monkeypatch.setenv("COLUMNS", said)
        assert columns(io.StringIO()) == 100
    assert columns(CLOSED) == 100
    assert columns(None) == 100
    monkeypatch.delenv("COLUMNS")
    terminal, there = os.openpty()
    with open(terminal, "w") as stream, open(there):
        assert columns(stream) == 100  # a terminal of no size that is known

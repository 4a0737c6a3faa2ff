"""Standard streams that are closed or read by nobody, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import triochan

SECONDS = 20


def run(script: str, redirections: str, *, folder: Path) -> subprocess.CompletedProcess[str]:
    """A Python process with these redirections of the shell's, and ``out`` in the folder for what it tells."""
    (folder / "script.py").write_text(textwrap.dedent(script))
    return subprocess.run(
        ["sh", "-c", f'exec "$0" script.py {redirections}', sys.executable],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "", "PYTHONPATH": str(Path(triochan.__file__).parents[1])},
    )


@pytest.mark.parametrize("closed", ["", "<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_no_file_that_is_opened_later_takes_their_place(tmp_path: Path, closed: str) -> None:
    script = """
        import os, socket, subprocess, sys
        from triochan.standard_streams import hold_open
        hold_open()
        hold_open()
        opened = socket.socket().fileno()
        sys.stdout.write("to stdout\\n")
        sys.stderr.write("to stderr\\n")
        child = subprocess.run(["sh", "-c", "cat; echo of the child; echo aside >&2"]).returncode
        with open("out", "w") as told:
            print(opened, child, sys.stdin.read(), file=told)
    """
    ended = run(script, closed or "</dev/null", folder=tmp_path)
    assert ended.returncode == 0
    opened, child = (tmp_path / "out").read_text().split()
    assert int(opened) > 2
    assert child == "0"
    stdout_is_closed = ">&-" in closed.replace("2>&-", "")
    assert ended.stdout == ("" if stdout_is_closed else "of the child\nto stdout\n")
    assert ("aside" in ended.stderr) == ("2>&-" not in closed)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize(
    ("before", "status"),
    [("flush_or_drop()", 3), ("", 120)],
    ids=["dropped", "as Python has it"],
)
def test_what_nobody_takes_is_no_exit_status(tmp_path: Path, name: str, before: str, status: int) -> None:
    script = f"""
        import sys
        from triochan.standard_streams import flush_or_drop
        try:
            sys.{name}.write("into a full disk")
            sys.{name}.flush()
        except OSError:
            pass
        {before}
        {before}
        sys.exit(3)
    """
    ended = run(script, f"{'' if name == 'stdout' else '2'}>/dev/full", folder=tmp_path)
    assert ended.returncode == status
    assert (ended.stdout, "Exception ignored" in ended.stderr) == ("", status == 120 and name == "stdout")


def test_what_is_taken_is_written(tmp_path: Path) -> None:
    script = """
        import sys
        from triochan.standard_streams import flush_or_drop
        sys.stdout.write("here")
        flush_or_drop()
        sys.stdout.close()
        flush_or_drop()
    """
    ended = run(script, "", folder=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "here", "")

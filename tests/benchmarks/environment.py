"""The virtual environment of the benchmarks: the peers at pinned versions, and what triochan depends on."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".bench"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PIP_TIMEOUT = 900.0


class SetupFailed(Exception):
    """The environment could not be made; the message says what to do."""


def prepare(say: Callable[[str], None]) -> Path:
    """Make the environment, or bring it up to date; answers the path of its Python.

    triochan is not installed but imported from the checkout, so that its sources are always the ones that
    are measured; only its dependencies are installed, read from pyproject.toml.
    """
    with (ROOT / "pyproject.toml").open("rb") as file:
        dependencies: list[str] = tomllib.load(file)["project"]["dependencies"]
    digest = hashlib.sha256("\n".join([REQUIREMENTS.read_text(), *dependencies]).encode()).hexdigest()
    venv = CACHE / "venv"
    python = venv / "bin" / "python"
    stamp = venv / "benchmarks.stamp"
    found = stamp.read_text().splitlines() if stamp.exists() else []
    if found == [platform.python_version(), digest]:
        return python
    say(f"setting up the peers in {venv.relative_to(ROOT)} (once; takes a minute) …")
    if found[:1] != [platform.python_version()]:
        _run([sys.executable, "-m", "venv", "--clear", str(venv)], "python -m venv")
    _run(
        [
            *(str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"),
            *("--requirement", str(REQUIREMENTS), *dependencies),
        ],
        "pip install",
    )
    stamp.write_text(f"{platform.python_version()}\n{digest}\n")
    return python


@contextmanager
def alone() -> Iterator[None]:
    """Holds off a second run in this checkout: each would spoil the other's figures, and its environment."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SetupFailed(
                "another run in this checkout is under way; come back when it is over"
            ) from error
        yield


def certificate(python: Path) -> tuple[Path, Path]:
    """A fresh key with its certificate for 127.0.0.1 in one file, and the authority that signed it."""
    folder = CACHE / "tls"
    folder.mkdir(parents=True, exist_ok=True)
    _run(
        [str(python), "-m", "trustme", "--quiet", "--dir", str(folder), "--identities", "127.0.0.1"],
        "trustme",
    )
    both = folder / "server-with-key.pem"
    both.write_text((folder / "server.key").read_text() + (folder / "server.pem").read_text())
    return both, folder / "client.pem"


def _run(command: list[str], name: str) -> None:
    try:
        # Their output goes to standard error: standard output is for the table.
        subprocess.run(command, stdout=sys.stderr, check=True, timeout=PIP_TIMEOUT)
    except subprocess.CalledProcessError as error:
        raise SetupFailed(f"{name} failed with status {error.returncode}; its words are above") from error
    except subprocess.TimeoutExpired as error:
        raise SetupFailed(f"{name} took longer than {PIP_TIMEOUT:.0f} s") from error

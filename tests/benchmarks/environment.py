"""The virtual environment of the benchmarks: the peers at pinned versions, and what triochan depends on."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".bench"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PIP_TIMEOUT = 900.0


class SetupFailed(Exception):
    """The environment could not be made; the message says what to do."""


@dataclass(frozen=True)
class Base:
    """An earlier commit of this repository, checked out beside the working tree."""

    revision: str
    """As it was asked for, and the commit's short name."""
    sources: Path


@contextmanager
def base(revision: str) -> Iterator[Base]:
    """Check that commit out into the cache, and remove it afterwards.

    Raises:
        SetupFailed: there is no such commit, or git could not check it out.
    """
    commit = _git("rev-parse", "--verify", "--quiet", "--short", revision + "^{commit}")
    if not commit:
        raise SetupFailed(
            f"--base: {revision!r} is no commit of this repository; try a tag, a branch or HEAD~1"
        )
    sources = CACHE / "base"
    _remove(sources)  # of a run that was killed
    # Without hooks: they are for those who work in a checkout.
    _run(
        [
            *("git", "-C", str(ROOT), "-c", "core.hooksPath=/dev/null"),
            # Forced: also where git still knows of one there that is gone.
            *("worktree", "add", "--force", "--quiet", "--detach", str(sources), commit),
        ],
        "git worktree add",
    )
    try:
        yield Base(f"{revision} ({commit})", sources)
    finally:
        _remove(sources)


def _remove(sources: Path) -> None:
    if sources.exists():
        _git("worktree", "remove", "--force", str(sources))
        shutil.rmtree(sources, ignore_errors=True)  # what git did not know as a worktree


def _git(*arguments: str) -> str:
    """What git says; nothing where it fails."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def prepare(say: Callable[[str], None], base: Base | None = None) -> Path:
    """Make the environment, or bring it up to date; answers the path of its Python.

    triochan is not installed but imported from the checkout, so that its sources are always the ones that
    are measured; only its dependencies are installed, read from pyproject.toml, and those of the `base`.
    """
    dependencies = _dependencies(ROOT)
    if base is not None:
        dependencies += [one for one in _dependencies(base.sources) if one not in dependencies]
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


def _dependencies(sources: Path) -> list[str]:
    with (sources / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras: list[str] = project.get("optional-dependencies", {}).get("valkey", [])
    return [*project["dependencies"], *extras]


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

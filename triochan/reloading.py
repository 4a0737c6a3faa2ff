"""``--reload``: a parent process that watches files and starts the server anew, in a child, when they change.

The parent has the listening sockets, and hands them down. So clients that come while no server runs wait in their
queues. It never imports the application.

A new child imports the application first, and says so. Only then does the parent end the old one, and lets the new one
serve when that has ended: two lifespans never run at once. A child that can't import it changes nothing.

Parent and child share a pair of sockets. The child writes :data:`LOADED`; the parent answers :data:`GO`. When the
parent's end is closed, by the parent or with it, the child shuts down; so there are no orphans, and a stop that comes
beside Ctrl-C at the terminal, which both of them get, does not count as a second signal.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import trio

from .server import HOST, PORT
from .standard_streams import has_terminal
from .watchdog import GRACE
from .wire.binds import parse_binds, place
from .wire.inherited import adopt
from .wire.listeners import open_binds, take_over

logger = logging.getLogger("triochan.reload")

LOADED, GO = b"l", b"g"
INCLUDES = ("*.py",)
EXCLUDES = (".*", ".py[cod]", ".sw.*", "~*")
"""Both as uvicorn has them."""
PATIENCE = 5.0
"""Seconds that an old server gets to shut down in order, before it is to do so at once."""
_HURRY = 1.0
"""Seconds between two more urgent words."""
_LOAD_SECONDS = 60.0
"""How long a new one may import its application."""
_NAMED = 3
"""Files that a line names."""


class CannotWatch(Exception):
    """Files can't be watched; the text is for who runs the server."""


class Filter:
    """Which files matter: a glob of ``includes`` fits the name or the path below its folder, none of ``excludes`` fits
    the path or any name in it.

    Args:
        folders: those that are watched, absolute.
        includes, excludes: beside :data:`INCLUDES` and :data:`EXCLUDES`; one that stands in the other's list takes the
            default out of it (uvicorn's ``--reload-include``, ``--reload-exclude``).
    """

    def __init__(
        self, folders: Sequence[Path], includes: Sequence[str] = (), excludes: Sequence[str] = ()
    ) -> None:
        self._folders = folders
        self._includes = [each for each in INCLUDES if each not in excludes] + list(includes)
        self._excludes = [each for each in EXCLUDES if each not in includes] + list(excludes)

    def __call__(self, change: object, path: str) -> bool:
        inner = self.inner(path)
        if inner is None:
            return False
        parts = inner.parts
        if any(fnmatch(part, glob) or inner.match(glob) for glob in self._excludes for part in parts):
            return False
        return any(fnmatch(inner.name, glob) or inner.match(glob) for glob in self._includes)

    def inner(self, path: str) -> Path | None:
        """The path below the folder that it is in."""
        for folder in self._folders:
            with contextlib.suppress(ValueError):
                return Path(path).relative_to(folder)
        return None


class _Child:
    """A server in a process of its own."""

    def __init__(self, process: trio.Process, line: socket.socket) -> None:
        self._process = process
        line.setblocking(False)
        self._line = trio.socket.from_stdlib_socket(line)
        self._patience = trio.CancelScope()

    @property
    def status(self) -> int | None:
        """Its exit status; None: it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    async def loaded(self) -> bool:
        """Whether it has imported its application; False: it has ended, or takes too long."""
        with trio.move_on_after(_LOAD_SECONDS):
            try:
                return await self._line.recv(1) == LOADED
            except OSError:
                return False
        logger.error("the application was not imported in %g s", _LOAD_SECONDS)
        return False

    async def go(self) -> None:
        with contextlib.suppress(OSError):  # it has ended; who waits for that sees it
            await self._line.send(GO)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self, seconds: float) -> None:
        """Let it shut down in order for that long, or until :meth:`hurry`; then at once; then kill it. Shielded."""
        self._line.close()
        with trio.CancelScope(shield=True):
            with self._patience:
                with trio.move_on_after(seconds):
                    await self._process.wait()
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
                if self.status is not None:
                    return
                self.signal(number)
                with trio.move_on_after(_HURRY):
                    await self._process.wait()
            await self._process.wait()

    def hurry(self) -> None:
        self._patience.cancel()

    async def kill(self) -> None:
        """Before it serves there is nothing to shut down."""
        self._line.close()
        self._process.kill()
        await self._process.wait()


class _Parent:
    """Keeps one server running, and replaces it when files change."""

    def __init__(self, arguments: Sequence[str], listeners: Sequence[int]) -> None:
        self._arguments = arguments
        self._listeners = listeners
        self.current: _Child | None = None

    async def run(self, changes: trio.MemoryReceiveChannel[list[str]]) -> None:
        """Start a server, and another one at each change; until cancelled. The one that serves then is left."""
        async with trio.open_nursery() as nursery:
            while True:
                child = await self._spawn()
                changed = await self._load(child, changes, nursery)
                if not changed:
                    changed = await changes.receive()
                more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
                logger.info("changed: %s%s; loading the application", ", ".join(changed[:_NAMED]), more)

    async def _spawn(self) -> _Child:
        ours, theirs = socket.socketpair()
        with theirs:
            passed = [theirs.fileno(), *self._listeners]
            numbers = ",".join(map(str, passed))
            command = [sys.executable, "-m", "triochan.reload_child", numbers, *self._arguments]
            try:
                return _Child(await trio.lowlevel.open_process(command, pass_fds=passed), ours)
            except BaseException:
                ours.close()
                raise

    async def _load(
        self, child: _Child, changes: trio.MemoryReceiveChannel[list[str]], watching: trio.Nursery
    ) -> list[str]:
        """Let ``child`` take the place of the one that serves, if it can and nothing changes meanwhile: what did."""
        changed: list[str] = []
        loaded = False
        try:
            async with trio.open_nursery() as nursery:

                async def look() -> None:
                    nonlocal loaded
                    loaded = await child.loaded()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(look)
                changed = await changes.receive()
                nursery.cancel_scope.cancel()
        finally:
            if not loaded or changed:
                with trio.move_on_after(PATIENCE, shield=True):
                    await child.kill()
        if changed:
            return changed
        if not loaded:
            serves = self.current is not None and self.current.status is None
            logger.error(
                "the application can't be loaded, see above; %s",
                "the server goes on with the old one" if serves else "waiting for a change",
            )
            return []
        old, self.current = self.current, child
        if old is not None:
            await old.end(PATIENCE)
        await child.go()
        watching.start_soon(self._watch, child)
        return []

    async def _watch(self, child: _Child) -> None:
        status = await child.wait()
        if child is self.current:
            logger.error("the server has ended by itself, with status %d; waiting for a change", status)


async def _changes(
    awatch: Callable[..., AsyncIterator[set[tuple[object, str]]]],
    folders: Sequence[Path],
    watched: Filter,
    send: trio.MemorySendChannel[list[str]],
    stopped: trio.Event,
) -> None:
    async with contextlib.aclosing(awatch(*folders, watch_filter=watched, stop_event=stopped)) as batches:  # type: ignore[type-var]
        async for batch in batches:
            await send.send(sorted({str(watched.inner(path) or path) for _, path in batch}))


async def _supervise(
    options: argparse.Namespace,
    arguments: Sequence[str],
    sockets: Sequence[socket.socket],
    binds: Sequence[str],
    folders: Sequence[Path],
    awatch: Callable[..., AsyncIterator[set[tuple[object, str]]]],
) -> int:
    watched = Filter(folders, options.reload_include or (), options.reload_exclude or ())
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    at_terminal = has_terminal()
    with contextlib.ExitStack() as held:
        listeners = take_over(sockets, "http")
        places = binds or ([] if listeners else [place(HOST, PORT)])
        listeners += await open_binds(parse_binds(places), "http", uds_mode=options.uds_mode)
        for listener, _ in listeners:
            held.callback(listener.close)
        parent = _Parent(arguments, [listener.fileno() for listener, _ in listeners])
        with trio.open_signal_receiver(*numbers) as received:
            async with trio.open_nursery() as nursery:
                send, changes = trio.open_memory_channel[list[str]](0)
                stopped = trio.Event()  # its thread looks at this, and at no cancellation
                nursery.start_soon(_changes, awatch, folders, watched, send, stopped)
                nursery.start_soon(parent.run, changes)
                logger.info("watching %s", ", ".join(map(str, folders)))
                async for number in received:
                    if number != signal.SIGHUP or at_terminal:
                        break
                    if parent.current is not None:
                        parent.current.signal(signal.SIGHUP)
                stopped.set()
                nursery.cancel_scope.cancel()
            child = parent.current
            if child is None:
                return 0
            async with trio.open_nursery() as nursery:

                async def hurry() -> None:
                    async for number in received:
                        if number != signal.SIGHUP:
                            child.hurry()

                nursery.start_soon(hurry)
                await child.end(options.shutdown_timeout + 2 * GRACE)
                nursery.cancel_scope.cancel()
    return 0 if child.status == 0 else 1


def supervise(
    options: argparse.Namespace,
    arguments: Sequence[str],
    sockets: Sequence[socket.socket],
    binds: Sequence[str],
) -> int:
    """Serve, and start anew whenever a file changes, until SIGINT or SIGTERM; the exit status.

    Args:
        options: of the command line.
        arguments: those that the options were made of.
        sockets: those that were inherited.
        binds: where to listen beside them.

    Raises:
        CannotWatch: watchfiles is not installed, or a folder is not there.
        CannotListen, ImproperlyConfigured: an address can't be had.
    """
    try:
        awatch = importlib.import_module("watchfiles").awatch
    except ImportError:
        raise CannotWatch(
            "--reload needs the package watchfiles, which is not installed; install 'triochan[reload]'"
        ) from None
    folders = [Path(each) for each in options.reload_dir or [options.app_dir]]
    for folder in folders:
        if not folder.is_dir():
            raise CannotWatch(f"--reload-dir {folder}: there is no such folder")
    resolved = [each.resolve() for each in folders]
    return trio.run(partial(_supervise, options, arguments, sockets, binds, resolved, awatch))


# -- in the child


class Leash:
    """The child's end of the pair of sockets.

    Args:
        numbers: the descriptors of that end and of the listening sockets, with commas between them.
    """

    def __init__(self, numbers: str) -> None:
        line, *listeners = map(int, numbers.split(","))
        self._line = socket.socket(fileno=line)
        self._line.set_inheritable(False)
        self.sockets = [adopt(each) for each in listeners]
        self._may_go = threading.Event()
        self._running: tuple[trio.lowlevel.TrioToken, trio.Event, float] | None = None
        threading.Thread(target=self._listen, name="triochan's leash", daemon=True).start()

    def wait(self) -> None:
        """The application is loaded: say so, and wait until it may be served."""
        self._line.sendall(LOADED)
        self._may_go.wait()

    async def gone(self, seconds: float) -> None:
        """Wait until the parent lets go. Then the process ends in ``seconds`` where it has not ended by itself."""
        let_go = trio.Event()
        self._running = trio.lowlevel.current_trio_token(), let_go, seconds
        await let_go.wait()

    def _listen(self) -> None:
        if self._line.recv(1) == GO:
            self._may_go.set()
            self._line.recv(1)
        running = self._running
        if running is not None:
            token, let_go, seconds = running
            with contextlib.suppress(trio.RunFinishedError):  # it is at its end by itself
                token.run_sync_soon(let_go.set)
            time.sleep(seconds)
        os._exit(1)

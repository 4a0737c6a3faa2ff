"""``--reload``: a parent process that watches files and starts the server anew, in a child, when they change.

The parent has the listening sockets, and hands them down. So clients that come while no server runs wait in their
queues. It never imports the application.

A new child imports the application first, and says so. Only then does the parent end the old one, and lets the new one
serve when that has ended: two lifespans never run at once. A child that can't import it changes nothing.
:mod:`triochan.children` is how the two talk.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import trio

from .children import Brief, Child, end_all
from .server import HOST, PORT
from .standard_streams import has_terminal
from .watchdog import GRACE
from .wire.binds import parse_binds, place
from .wire.listeners import open_binds, take_over

logger = logging.getLogger("triochan.reload")

INCLUDES = ("*.py",)
EXCLUDES = (".*", ".py[cod]", ".sw.*", "~*")
"""Both as uvicorn has them."""
PATIENCE = 5.0
"""Seconds that an old server gets to shut down in order, before it is to do so at once."""
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


class _Parent:
    """Keeps one server running, and replaces it when files change."""

    def __init__(self, title: str, arguments: Sequence[str], listeners: Sequence[int]) -> None:
        self._title = title
        self._arguments = arguments
        self._listeners = listeners
        self.current: Child | None = None

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

    async def _spawn(self) -> Child:
        return await Child.start(Brief(self._arguments, self._listeners), self._title)

    async def _load(
        self, child: Child, changes: trio.MemoryReceiveChannel[list[str]], watching: trio.Nursery
    ) -> list[str]:
        """Let ``child`` take the place of the one that serves, if it can and nothing changes meanwhile: what did."""
        changed: list[str] = []
        loaded = False
        try:
            async with trio.open_nursery() as nursery:

                async def look() -> None:
                    nonlocal loaded
                    with trio.move_on_after(_LOAD_SECONDS) as scope:
                        loaded = await child.loaded()
                    if scope.cancelled_caught:
                        logger.error("the application was not imported in %g s", _LOAD_SECONDS)
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
            with trio.CancelScope(shield=True):  # bounded by its own time-outs
                await old.end(PATIENCE)
        child.tell("go")
        watching.start_soon(self._watch, child)
        return []

    async def _watch(self, child: Child) -> None:
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
        parent = _Parent(options.app, arguments, [listener.fileno() for listener, _ in listeners])
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
            await end_all([child], options.shutdown_timeout + 2 * GRACE, received)
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

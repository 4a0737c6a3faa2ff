"""The tasks that read: leader and followers.

One worker waits in Trio for the server's epoll. It reads each socket that has something, decodes it and runs its
handlers itself; nobody is rescheduled. A handler that waits keeps the worker that it began in, for a coroutine can't
change tasks: that worker leads no more, and another one, parked for this, goes on with what is left and leads from
then on. When the handler has ended, its worker takes what else its connection has to do, and follows again.

Each worker lives in the server's nursery, in one cancel scope of its own. While it holds a connection's handler, the
scope is the connection's to cancel (:meth:`triochan.handlers.Owner.hold`); a scope that was used so is replaced.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator
from contextvars import Context, copy_context
from operator import length_hint
from typing import Any, Protocol

import trio

from .handlers import Held, LeftOpen, left_open, report
from .wire.outbox import Flush
from .wire.poller import ENDED, READABLE, WRITABLE, Poller, has_epoll

logger = logging.getLogger("triochan.server")

MAX_PARKED = 1024
"""Workers that are kept for the next handlers that wait."""
_CALLED_AT_ONCE = 256
_ROUNDS = 8
"""Looks at the epoll between two checkpoints, as long as each finds something."""


class Runnable(Protocol):
    """What a worker may be asked to go on with. Methods are called within a worker's step, and never wait."""

    @property
    def waits(self) -> bool:
        """Its last handler had to wait: the next one is begun by a worker of its own, for it will probably wait too,
        and whoever looks at the sockets would have to be replaced."""

    def proceed(self) -> Held | None:
        """Do what can be done now, until something waits."""

    def internal_error(self, error: Exception) -> None:
        """Something of ours raised: end, and touch nobody else. A LeftOpen is a handler's, and still to be logged."""


class Source(Runnable, Protocol):
    """What stands behind a socket that the epoll watches."""

    @property
    def transport(self) -> Watched:
        """Its socket's."""

    def defer(self) -> None:
        """There is something to read, to be dealt with by :meth:`proceed`."""

    def readable(self) -> Held | None:
        """There may be something to read: read it, and run what it brings until something waits."""

    def writable(self) -> None:
        """There is room to write."""


class Watched(Protocol):
    """A socket's transport, as far as what the epoll tells concerns it.

    Attributes:
        ended: set where the stream's end, or an error, lies behind what can be read.
    """

    ended: bool

    def unwatch_writable(self) -> None:
        """There was room to write: tell of it no more, unless asked again."""


class Readers:
    """The workers of one server.

    Args:
        flush: what is flushed at the end of a worker's step.

    Attributes:
        poller: where sockets are registered; None on systems without epoll, whose sockets are pumped as streams.
    """

    def __init__(self, flush: Flush) -> None:
        self.poller: Poller[Source] | None = Poller() if has_epoll() else None
        self._flush = flush
        self._ready: deque[Runnable] = deque()
        # What the last look has found, as far as nobody has dealt with it yet.
        self._events: Iterator[tuple[int, int]] = iter(())
        self._parked: list[trio.lowlevel.Task] = []
        self._leads = False
        self._busy = False
        self._called = 0
        # Those that have been started and have not ended: a nursery that has none takes nobody any more.
        self._workers = 0
        self._nursery: trio.Nursery | None = None
        self._context: Context

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read, until cancelled. Workers run in the context that this is called in, as it is at that moment."""
        self._context = copy_context()
        try:
            async with trio.open_nursery() as self._nursery:
                self._called = self._workers = 1
                self._nursery.start_soon(self._work)
                task_status.started()
        finally:
            self._nursery = None

    def close(self) -> None:
        """Close the epoll. Connections take their sockets out of it at their end, so none may be left."""
        if self.poller is not None:
            self.poller.close()

    def again(self, source: Runnable) -> None:
        """Let a worker call ``source.proceed()`` in a moment: later in this step, or in the turn that follows.

        Callable from any task of this Trio run, and from a timer.
        """
        self._ready.append(source)
        if not self._flush.stepping:
            self._call(1)

    def _call(self, count: int) -> None:
        """See that ``count`` other workers come in the turn that follows; those that were called already count."""
        nursery = self._nursery
        if nursery is None or not self._workers:  # it takes nobody any more
            return
        while self._called < count:
            self._called += 1
            if self._parked:
                trio.lowlevel.reschedule(self._parked.pop())
            else:
                # Not in the context of the handler that may have caused this.
                self._workers += 1
                self._context.run(nursery.start_soon, self._work)

    async def _work(self) -> None:
        self._called -= 1
        task = trio.lowlevel.current_task()
        try:
            while True:
                with trio.CancelScope() as scope:
                    place: Any = task._cancel_status
                    while True:
                        held = self._step(task, place)
                        while held is None:
                            if not await self._wait(task):
                                return
                            held = self._step(task, place)
                        if self._ready or not self._leads or self._flush.pending or length_hint(self._events):
                            self._call(min(max(len(self._ready), 1), _CALLED_AT_ONCE))
                        try:
                            await held.finish(scope, task)
                        except Exception as error:  # noqa: BLE001 - a handler's own goes to its owner
                            self._failed(held.owner, error)
                        finally:
                            self._ready.append(held.owner)
                        # Only who was given the scope to hold may have used it. Where that left no deadline, the status
                        # says what `cancel_called` would ask the clock for.
                        if place.effectively_cancelled or scope.deadline != math.inf:
                            break
        finally:
            self._workers -= 1

    def _step(self, task: trio.lowlevel.Task, place: object) -> Held | None:
        """Look at what has happened, socket after socket, until a handler waits or nothing is left.

        Args:
            task, place: the worker's, and where it is among its cancel scopes, see :func:`triochan.handlers.nesting`.
        """
        if task._child_nurseries:  # of a handler that has left a scope around them, and was told so by Trio
            left_open(task, place)
        poller, flush, ready = self.poller, self._flush, self._ready
        flush.stepping = True
        asked: Runnable | None = None
        try:
            for _ in range(_ROUNDS):
                for number, flags in self._events:
                    asked = source = poller.sources.get(number)  # type: ignore[union-attr]
                    if source is None:
                        continue
                    if flags != READABLE:
                        if flags & ENDED:
                            source.transport.ended = True
                        if flags & WRITABLE:
                            source.transport.unwatch_writable()
                            source.writable()
                            if not flags & ~WRITABLE:
                                continue
                    if source.waits:
                        source.defer()
                        ready.append(source)
                        continue
                    held = source.readable()
                    if held is not None:
                        return held
                    if task._cancel_status is not place:  # nesting(), without the call
                        raise left_open(task, place)
                if self._leads:  # another one looks at the sockets: this one was called for what is ready
                    while ready:
                        asked = ready.popleft()
                        held = asked.proceed()
                        if held is not None:
                            return held
                        if task._cancel_status is not place:  # nesting(), without the call
                            raise left_open(task, place)
                    flush.flush()
                    return None
                # What is put there meanwhile has its turn after a checkpoint.
                waiting = 0
                for _ in range(len(ready)):
                    asked = ready.popleft()
                    # Without a poller, there is no other worker to leave it to.
                    if asked.waits and poller is not None:
                        waiting += 1
                        ready.append(asked)
                        continue
                    held = asked.proceed()
                    if held is not None:
                        return held
                    if task._cancel_status is not place:  # nesting(), without the call
                        raise left_open(task, place)
                flush.flush()
                if waiting:
                    self._call(min(waiting, _CALLED_AT_ONCE))
                if poller is None:
                    return None
                found = poller.poll()
                self._events = iter(found)
                self._busy = bool(found) or len(ready) > waiting
                if not found:
                    return None
        except Exception as error:  # noqa: BLE001 - the barrier around a connection
            self._busy = True
            self._failed(asked, error)
        finally:
            flush.stepping = False
        return None

    def _failed(self, source: Runnable | None, error: Exception) -> None:
        if not isinstance(error, LeftOpen):
            report(logger, "internal error; the connection is ended", error=error)
        if source is not None:
            source.internal_error(error)

    async def _wait(self, task: trio.lowlevel.Task) -> bool:
        """Lead, or follow; always a checkpoint. False: this worker is one too many."""
        if self._leads or self.poller is None:
            if self._ready or length_hint(self._events):
                await trio.lowlevel.checkpoint()
                return True
            if len(self._parked) >= MAX_PARKED:
                return False
            self._parked.append(task)

            def abort(_: object) -> trio.lowlevel.Abort:
                self._parked.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
            self._called -= 1
            return True
        self._leads = True
        try:
            if self._busy or length_hint(self._events):
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self.poller.fileno())
        finally:
            self._leads = False
        if not length_hint(self._events):
            self._events = iter(self.poller.poll())
        return True

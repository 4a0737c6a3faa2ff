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
from typing import Protocol

import trio

from .handlers import Held
from .wire.outbox import Flush
from .wire.poller import ENDED, READABLE, WRITABLE, Poller, has_epoll

logger = logging.getLogger("triochan.server")

MAX_PARKED = 64
"""Workers that are kept for the next handlers that wait."""


class Runnable(Protocol):
    """What a worker may be asked to go on with."""

    def proceed(self) -> Held | None:
        """Do what can be done now, until something waits."""

    def internal_error(self, error: Exception) -> None:
        """Something of ours raised: end, and touch nobody else."""


class Source(Runnable, Protocol):
    """What stands behind a socket."""

    @property
    def transport(self) -> Ending: ...

    def readable(self) -> Held | None:
        """There may be something to read: read it, and run what it brings until something waits."""

    def writable(self) -> None:
        """There is room to write."""


class Ending(Protocol):
    ended: bool


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
        self._events: deque[tuple[int, int]] = deque()
        self._parked: list[trio.lowlevel.Task] = []
        self._leads = False
        self._called = False
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read, until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._work)
                task_status.started()
        finally:
            self._nursery = None
            if self.poller is not None:
                self.poller.close()

    def again(self, source: Runnable) -> None:
        """Let a worker call ``source.proceed()`` in a moment. Callable from anywhere in this Trio run."""
        self._ready.append(source)
        if not self._flush.stepping:
            self._call_one()

    def _call_one(self) -> None:
        """See that another worker goes on; the one that was called and has not come yet will do."""
        if self._called:
            return
        self._called = self._nursery is not None
        if self._parked:
            trio.lowlevel.reschedule(self._parked.pop())
        elif self._nursery is not None:
            self._nursery.start_soon(self._work)

    async def _work(self) -> None:
        while True:
            with trio.CancelScope() as scope:
                while not scope.cancel_called and scope.deadline == math.inf:
                    held = self._step()
                    if held is None:
                        if not await self._wait():
                            return
                        continue
                    if self._events or self._ready or not self._leads or self._flush.pending:
                        self._call_one()
                    try:
                        await held.finish(scope)
                    finally:
                        self._ready.append(held.owner)

    def _step(self) -> Held | None:
        """Look at what has happened, socket after socket, until a handler waits or nothing is left."""
        poller, flush, events, ready = self.poller, self._flush, self._events, self._ready
        flush.stepping = True
        self._called = False
        asked: Runnable | None = None
        try:
            while events:
                number, flags = events.popleft()
                asked = source = poller.sources.get(number)  # type: ignore[union-attr]
                if source is None:
                    continue
                if flags != READABLE:
                    if flags & ENDED:
                        source.transport.ended = True
                    if flags & WRITABLE:
                        source.writable()
                        if not flags & ~WRITABLE:
                            continue
                held = source.readable()
                if held is not None:
                    return held
            # What is put there meanwhile has its turn after a checkpoint.
            for _ in range(len(ready)):
                asked = ready.popleft()
                held = asked.proceed()
                if held is not None:
                    return held
            flush.flush()
        except Exception as error:
            logger.exception("internal error; the connection is ended")
            if asked is not None:
                asked.internal_error(error)
        finally:
            flush.stepping = False
        return None

    async def _wait(self) -> bool:
        """Lead, or follow; always a checkpoint. False: this worker is one too many."""
        if self._events or self._ready:
            await trio.lowlevel.checkpoint()
            return True
        if self._leads or self.poller is None:
            if len(self._parked) >= MAX_PARKED:
                return False
            task = trio.lowlevel.current_task()
            self._parked.append(task)

            def abort(_: object) -> trio.lowlevel.Abort:
                self._parked.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
            return True
        self._leads = True
        try:
            await trio.lowlevel.wait_readable(self.poller.fileno())
        finally:
            self._leads = False
        self._events.extend(self.poller.poll())
        return True

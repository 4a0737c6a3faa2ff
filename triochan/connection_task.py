"""The one task of a connection: it waits for what only a task can do, and sees to it that what is owed is done."""

from __future__ import annotations

from typing import Protocol

import trio


class Stage(Protocol):
    """What a connection is at the moment: HTTP, then perhaps a WebSocket.

    Attributes:
        over: nothing comes or goes any more.
        asks: there is something for :meth:`attend` to do.
        owes: :meth:`finish` may have to wait for something.
    """

    @property
    def over(self) -> bool: ...

    @property
    def asks(self) -> bool: ...

    @property
    def owes(self) -> bool: ...

    async def attend(self) -> None:
        """Do what needs a task."""

    async def finish(self) -> None:
        """Do what is owed at the end; shielded, and bounded by time-outs of its own. ``over`` may be False: then the
        connection was cancelled from outside."""


class ConnectionTask:
    """Parks until its connection's stage wakes it.

    Attributes:
        stage: what the connection is; set before :meth:`live`.
    """

    __slots__ = ("_task", "_woken", "stage")

    def __init__(self) -> None:
        self.stage: Stage
        self._task: trio.lowlevel.Task | None = None
        self._woken = False

    async def live(self) -> None:
        """Wait for the end, and do what is owed then.

        A cancellation comes out, and what a stage raises: nothing but faults of triochan's own.
        """
        # The stage is not kept in a variable: one that has been left is freed.
        try:
            while not self.stage.over:
                if self.stage.asks:
                    await self.stage.attend()
                else:
                    await self.park()
        finally:
            if self.stage.owes:
                with trio.CancelScope(shield=True):
                    await self.stage.finish()
            else:  # nothing can be cancelled where nothing waits, and a scope takes 3 µs
                await self.stage.finish()  # noqa: ASYNC102
            del self.stage  # which refers to this: no circle is left for the garbage collector

    async def park(self) -> None:
        """Wait for :meth:`wake`; a checkpoint only where it has not been called yet."""
        if not self._woken:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._unpark)
        self._woken = False

    def wake(self) -> None:
        """Let :meth:`park` return; once is enough."""
        self._woken = True
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def _unpark(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

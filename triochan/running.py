"""What runs here: what belongs to this Trio run or is shared in it, and which application's code is running."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, Generic, TypeVar

import attrs
import trio

from .typed import HasConverter

T = TypeVar("T")


class Local:
    """Objects that belong to one connection, or to one Trio run, and end with it: one of each class.

    A class is its own name: what one room keeps, no other room can take for its own.
    """

    __slots__ = ("_ends", "_gaps", "_objects")

    def __init__(self) -> None:
        self._objects: dict[type, Any] = {}
        self._ends: list[Callable[[], None]] = []
        self._gaps: tuple[Callable[[], None], ...] = ()

    def of(self, kind: type[T]) -> T:
        """The object of the class ``kind``; made by ``kind()`` when it is first asked for."""
        found: T | None = self._objects.get(kind)
        if found is None:
            found = self._objects[kind] = kind()
        return found

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the connection has ended: what would outlive it, as a timer does, is let go of."""
        self._ends.append(callback)

    def at_gap(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when messages to the connection's groups may have been missed, and are heard again."""
        self._gaps += (callback,)

    def gap(self) -> None:
        """Told by the connection when its layer has told it."""
        for callback in self._gaps:
            callback()

    def end(self) -> None:
        """Told by the connection when it has ended; again is no error."""
        ends, self._ends = self._ends, []
        for callback in ends:
            callback()


_run: trio.lowlevel.RunVar[Local] = trio.lowlevel.RunVar("triochan")


def run_local() -> Local:
    """What belongs to this Trio run.

    Raises:
        RuntimeError: this is not called from within Trio.
    """
    try:
        return _run.get()
    except LookupError:
        local = Local()
        _run.set(local)
        return local


@attrs.define(eq=False)
class SharedBlock(Generic[T]):
    """One async context manager for several servers of a Trio run, in a task of the run's: the first that holds it
    enters it, and it is left when the last one has let go, whichever that is.

    When it breaks off by itself, all that hold it are cancelled, and raise what it raised. Where nobody waits for it to
    open any more, because all that did were cancelled, that is cancelled too.

    Args:
        open: makes the context manager.
        left: called when it has been left.
    """

    _open: Callable[[], AbstractAsyncContextManager[T]]
    _left: Callable[[], None]
    _value: T | None = None
    _holding: set[trio.CancelScope] = attrs.field(factory=set)
    _begun: trio.Event = attrs.field(factory=trio.Event)
    _released: trio.Event = attrs.field(factory=trio.Event)
    _ended: trio.Event = attrs.field(factory=trio.Event)
    _opening: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _error: Exception | None = None

    def start(self) -> None:
        """Begin, in this task's context; it has to be held then, before anything is awaited."""
        trio.lowlevel.spawn_system_task(self._run, name=self._open, context=copy_context())

    async def ending(self) -> bool:
        """Whether nobody holds it any more; then it has ended when this returns."""
        if not self._released.is_set():
            return False
        await self._ended.wait()
        return True

    @asynccontextmanager
    async def held(self) -> AsyncIterator[T]:
        """What the context manager gave, for as long as the block lasts."""
        scope = trio.CancelScope()
        self._holding.add(scope)
        try:
            try:
                with scope:
                    await self._begun.wait()
                    if not self._ended.is_set():
                        yield self._value  # type: ignore[misc]
            finally:
                self._holding.discard(scope)
                if not self._holding:
                    self._released.set()
                    if not self._begun.is_set():
                        self._opening.cancel()
                    with trio.CancelScope(shield=True):
                        await self._ended.wait()  # noqa: ASYNC102 - leaving is the block's, which bounds it itself
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException:
            if self._error is not None:
                raise self._error  # noqa: ASYNC104, B904 - as one of this task's own that raises when it is left
            raise
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        try:
            with self._opening:
                async with self._open() as self._value:
                    self._begun.set()
                    if not self._released.is_set():
                        await self._released.wait()
        except Exception as error:  # noqa: BLE001 - raised where it is held: here it would end the whole run
            self._error = error
        finally:
            self._left()
            self._begun.set()
            self._ended.set()
            for scope in self._holding:
                scope.cancel()


@attrs.define(eq=False)
class _Applications:
    """The applications that are served in a Trio run, in the order in which they began."""

    served: list[HasConverter] = attrs.field(factory=list)


# Of several servers in one run, the one whose task asks. The run alone could not tell them apart.
_own: ContextVar[HasConverter | None] = ContextVar("triochan.application", default=None)


@contextmanager
def serving(application: HasConverter) -> Iterator[None]:
    """Within the block this Trio run serves ``application``; tasks that are started in it are the application's."""
    served = run_local().of(_Applications).served
    served.append(application)
    try:
        with of_application(application):
            yield
    finally:
        served.remove(application)


@contextmanager
def of_application(application: HasConverter) -> Iterator[None]:
    """Within the block this task, and those that are started in it, are those of ``application``, which is served."""
    token = _own.set(application)
    try:
        yield
    finally:
        _own.reset(token)


def current_application() -> HasConverter | None:
    """The application whose task this is.

    In a task beside the servers, the application that began first of those that this Trio run serves; None where it
    serves none, and outside Trio.
    """
    own = _own.get()
    if own is not None:
        return own
    try:
        served = run_local().of(_Applications).served
    except RuntimeError:
        return None
    return served[0] if served else None

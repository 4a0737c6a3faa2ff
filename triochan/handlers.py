"""Running a handler, and the one barrier around it.

A handler's coroutine is begun by a plain call, in the task that has its message: one that never waits costs no task and
no switch. At its first real suspension it is :class:`Held`: the task that began it awaits the rest, for a coroutine
can't change tasks. Every step runs in a context of the message's own, so that a context variable set for one message is
seen by no other.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import trio

from .exceptions import ConnectionClosed
from .message import Message
from .routing import Consumer, Match

Begin = Callable[[Message, dict[str, Any]], Coroutine[Any, Any, object]]
"""Makes the coroutine that handles a message with the routing's keyword arguments."""


class Bound(NamedTuple):
    """A match of the router, with the function that begins the handler.

    ``begin`` is None where nothing would happen: the consumer leaves all as it is.
    """

    consumer: Consumer
    kwargs: dict[str, Any]
    begin: Begin | None


class Owner(Protocol):
    """Whose handler it is."""

    @property
    def waits(self) -> bool:
        """Its last handler had to wait."""

    def hold(self, scope: trio.CancelScope) -> None:
        """A task waits in the handler from now on; ``scope`` is the owner's to cancel until :meth:`release`.

        Called between the handler's first suspension and the moment that Trio sees it: nothing may be rescheduled.
        """

    def release(
        self, scope: trio.CancelScope, consumer: Consumer, result: object, error: BaseException | None
    ) -> None:
        """It has ended: with ``result``, or by what it raised; a cancellation is an error here."""

    def proceed(self) -> Held | None:
        """Do what can be done now: a task is free."""

    def internal_error(self, error: Exception) -> None:
        """Something of ours raised in :meth:`proceed`: end, and touch nobody else."""


class Held(NamedTuple):
    """A handler that has begun to wait; whoever gets it from :func:`begin` has to await :meth:`finish` at once.

    Between the two no other code may run: what the handler waits for has noted this task, and Trio does not know yet.
    """

    owner: Owner
    consumer: Consumer
    coroutine: Coroutine[Any, Any, object]
    context: Context
    trap: Any

    async def finish(self, scope: trio.CancelScope) -> None:
        """Await the rest. What the handler raises goes to the owner; a cancellation comes out as well."""
        owner = self.owner
        owner.hold(scope)
        result: object = None
        error: BaseException | None = None
        try:
            result = await resume(self.coroutine, self.context, self.trap)
        except BaseException as raised:  # noqa: ASYNC103 - parted() says what has to go on
            error = raised
            mine, others = parted(raised)
            if others is not None:
                if mine is None:
                    raise
                raise others from None  # noqa: ASYNC104 - a cancellation goes on
        finally:
            owner.release(scope, self.consumer, result, error)


def begin_of(consumer: Consumer, channel: str) -> Begin | None:
    """How ``consumer`` begins to handle what comes on ``channel``; None where it would do nothing."""
    plan = getattr(consumer, "begin_on", None) if isinstance(consumer, type) else None
    if plan is not None:
        found: Begin | None = plan(channel)
        return found

    def begin(message: Message, kwargs: dict[str, Any]) -> Coroutine[Any, Any, object]:
        coroutine: Coroutine[Any, Any, object] = consumer(message, **kwargs)
        return coroutine

    return begin


def bind(match: Match, channel: str) -> Bound:
    """``match`` with the function that begins its handler. Made for each connection anew, so that what is patched by
    then is called."""
    return Bound(*match, begin_of(match[0], channel))


def begin(
    owner: Owner, bound: Bound, message: Message, timeout: float | None = None
) -> tuple[Held | None, object, BaseException | None]:
    """Begin a handler: what is held, or its result, or what it raised.

    Args:
        timeout: seconds that it may take; then it raises TooSlowError.
    """
    context = copy_context()
    assert bound.begin is not None
    coroutine: Coroutine[Any, Any, object] | None = None
    try:
        # What makes the coroutine is the program's code as well: a consumer's __init__.
        coroutine = context.run(bound.begin, message, bound.kwargs)
        if timeout is not None:
            coroutine = bounded(coroutine, timeout)
        trap = context.run(coroutine.send, None)
    except StopIteration as stop:
        return (None, stop.value, None) if coroutine is not None else (None, None, stop)
    except BaseException as error:  # noqa: ASYNC103 - parted() says what has to go on
        if parted(error)[1] is not None:
            raise
        return None, None, error  # noqa: ASYNC104 - a cancellation goes on
    return Held(owner, bound.consumer, coroutine, context, trap), None, None


def first_step(
    begin: Begin, message: Message, kwargs: dict[str, Any]
) -> tuple[Coroutine[Any, Any, object], Any] | None:
    """Begin a handler whose result nobody wants, within the context that is its own: the coroutine and what it waits
    for; None: it has ended.

    ``next`` with a default ends without an exception, where ``send`` raises StopIteration and somebody has to catch
    it; and one call in the context does what two did. That is 0.07 µs of an echo.
    """
    coroutine = begin(message, kwargs)
    if coroutine.__class__ is types.CoroutineType:
        trap = next(coroutine.__await__(), _RETURNED)
        return None if trap is _RETURNED else (coroutine, trap)
    try:  # made by a compiler, or by hand
        return coroutine, coroutine.send(None)
    except StopIteration:
        return None


_RETURNED: Any = object()


@types.coroutine
def resume(
    coroutine: Coroutine[Any, Any, object], context: Context, trap: Any
) -> Generator[Any, Any, object]:
    """Await the rest of ``coroutine``, which has stopped at ``trap``, each step in ``context``; its result."""
    run, send, throw = context.run, coroutine.send, coroutine.throw
    try:
        while True:
            try:
                value = yield trap
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001, ASYNC103 - it goes on into the coroutine
                trap = run(throw, error)
            else:
                trap = run(send, value)
    except StopIteration as stop:
        result: object = stop.value
        return result


async def call(
    begin: Begin, message: Message, kwargs: dict[str, Any], seconds: float | None = None
) -> object:
    """Begin a handler and await it, in a context of its own.

    Args:
        seconds: that it may take; then it raises TooSlowError.
    """
    context = copy_context()
    coroutine = context.run(begin, message, kwargs)
    if seconds is not None:
        coroutine = bounded(coroutine, seconds)
    return await run(coroutine, context)


async def run(coroutine: Coroutine[Any, Any, object], context: Context | None = None) -> object:
    """Await ``coroutine`` from its beginning in a context of its own; a checkpoint only where it has one.

    Args:
        context: None: a copy of this task's.
    """
    context = context or copy_context()
    try:
        trap = context.run(coroutine.send, None)
    except StopIteration as stop:
        result: object = stop.value
        return result
    return await resume(coroutine, context, trap)


async def bounded(coroutine: Coroutine[Any, Any, object], seconds: float) -> object:
    """Await ``coroutine``; TooSlowError after ``seconds``."""
    with trio.fail_after(seconds):
        return await coroutine


def parted(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """What of ``error`` the program raised, and what has to go on: a cancellation, KeyboardInterrupt.

    A nursery whose child raises while it is cancelled raises both in one group.
    """
    if isinstance(error, Exception):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        mine, others = error.split(Exception)
        return mine, others
    return None, error


class Barrier:
    """Around what runs the program's code in a task of its own: what is raised is reported, and goes no further.

    A cancellation goes on, also where an error came beside it. A ConnectionClosed is no error of the program's.

    Args:
        report: called with the error.
    """

    def __init__(self, report: Callable[[Exception], None]) -> None:
        self._report = report

    def __enter__(self) -> None:
        """Nothing is opened."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            return False
        mine, others = parted(error)
        if mine is not None and not only(mine, ConnectionClosed):
            self._report(mine)
        if others is not None and mine is not None:
            raise others from None
        return others is None


def only(error: BaseException, kind: type[BaseException]) -> bool:
    """``error`` is of ``kind``, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(kind)[1] is None
    return isinstance(error, kind)

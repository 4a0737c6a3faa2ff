"""Running a handler, and the one barrier around it.

A handler's coroutine is begun by a plain call, in the task that has its message: one that never waits costs no task and
no switch. At its first real suspension it is :class:`Held`: the task that began it awaits the rest, for a coroutine
can't change tasks. Every step runs in a context of the message's own, so that a context variable set for one message is
seen by no other.
"""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import trio

from .exceptions import ChannelSocketException, ConnectionClosed
from .log_lines import show_unwritten
from .message import Message
from .routing import Consumer

E = TypeVar("E", bound=BaseException)
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
    message: Message
    place: Any = None
    """Where the task was among its cancel scopes before; None: in the one that :meth:`finish` is given."""

    async def finish(self, scope: trio.CancelScope, task: trio.lowlevel.Task | None = None) -> None:
        """Await the rest. What the handler raises goes to the owner; a cancellation comes out as well.

        Args:
            task: the current one, where the caller knows it.
        """
        owner = self.owner
        owner.hold(scope)
        result: object = None
        error: BaseException | None = None
        try:
            try:
                result = await resume(self.coroutine, self.context, self.trap)
            except (ChannelSocketException, ExceptionGroup) as raised:
                await run(answer_of(raised, self.message), self.context)
        except GeneratorExit:  # this coroutine is closed, and with it the handler's
            raise
        except BaseException as raised:  # noqa: ASYNC103 - parted() says what has to go on
            error = raised
            mine, others = parted(raised)
            if others is not None:
                if mine is None:
                    raise
                raise others from None  # noqa: ASYNC104 - a cancellation goes on
        finally:
            if task is None:
                task = trio.lowlevel.current_task()
            place = self.place or scope._cancel_status
            if task._cancel_status is not place:  # nesting(), without the call
                error = left_open(task, place, error)
            owner.release(scope, self.consumer, result, error)
            if error is not None:
                forget(error)


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


def begin(
    owner: Owner,
    bound: Bound,
    message: Message,
    timeout: float | None = None,
    *,
    after: BaseException | None = None,
) -> tuple[Held | None, object, BaseException | None]:
    """Begin a handler: what is held, or its result, or what it raised.

    Args:
        timeout: seconds that it may take; then it raises TooSlowError.
        after: what the handler has raised; what that asks for (:func:`answer_of`) is begun in its place.
    """
    context = copy_context()
    assert bound.begin is not None
    task = trio.lowlevel.current_task()
    place = task._cancel_status  # nesting(), without the call
    result: object = None
    failure: BaseException | None = None
    try:
        coroutine, result = context.run(
            _first_step,
            bound.begin if after is None else lambda message, _: answer_of(after, message),
            message,
            bound.kwargs,
            timeout,
        )
    except BaseException as error:  # noqa: ASYNC103 - parted() says what has to go on
        if parted(error)[1] is not None:
            raise
        failure = error  # noqa: ASYNC104 - a cancellation goes on
    else:
        if coroutine is not None:
            return Held(owner, bound.consumer, coroutine, context, result, message, place), None, None
    if task._cancel_status is not place:
        failure = left_open(task, place, failure)
    elif after is None and isinstance(failure, (ChannelSocketException, ExceptionGroup)):
        return begin(owner, bound, message, timeout, after=failure)
    return None, result, failure


def _first_step(
    begin: Begin, message: Message, kwargs: dict[str, Any], timeout: float | None
) -> tuple[Coroutine[Any, Any, object] | None, Any]:
    """Begin a handler within the context that is its own: its coroutine and what that waits for; or None, and its
    result."""
    # What makes the coroutine is the program's code as well: a consumer's __init__.
    coroutine = as_coroutine(begin(message, kwargs))
    if timeout is not None:
        coroutine = bounded(coroutine, timeout)
    try:
        return coroutine, coroutine.send(None)
    except StopIteration as stop:
        return None, stop.value


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
    coroutine = as_coroutine(coroutine)
    try:  # made by a compiler, by hand, or of another awaitable
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
    closed = False
    try:
        while True:
            try:
                value = yield trap
            except GeneratorExit:
                closed = True
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001, ASYNC103 - it goes on into the coroutine
                trap = run(throw, error)
            else:
                trap = run(send, value)
    except StopIteration as stop:
        result: object = stop.value
        return result
    except GeneratorExit as error:
        if closed:
            raise
        raise NotAnException(error) from error
    finally:
        value = None  # Trio's outcome: its error's frames lead back to this one, on CPython 3.13


async def call(
    begin: Begin, message: Message, kwargs: dict[str, Any], seconds: float | None = None
) -> object:
    """Begin a handler and await it, in a context of its own.

    Args:
        seconds: that it may take; then it raises TooSlowError.

    Raises:
        LeftOpen: it has left a cancel scope or a nursery open.
    """
    context = copy_context()
    coroutine = as_coroutine(context.run(begin, message, kwargs))
    if seconds is not None:
        coroutine = bounded(coroutine, seconds)
    try:
        return await enclosed(coroutine, context)
    except (ChannelSocketException, ExceptionGroup) as error:
        answer = answer_of(error, message)
        return await enclosed(answer if seconds is None else bounded(answer, seconds), context)


def current_message() -> Message | None:
    """The message whose handler calls this, in the handler's own task; None where none does.

    Who runs handlers has their messages in variables: these frames are looked for, so no message pays for being found.
    """
    frame = sys._getframe(1)
    while True:
        code = frame.f_code
        if code in _BEGINNING:
            found: Message = frame.f_locals["message"]
            return found
        if code is _FINISHING:
            held: Held = frame.f_locals["self"]
            return held.message
        if frame.f_back is None:
            return None
        frame = frame.f_back


async def answer_of(error: BaseException, message: Message) -> None:
    """What ``error``, which the handler of ``message`` raised, asks to be done; any other error goes on.

    Of a group of nothing but such exceptions, as a nursery raises it, the first is asked.
    """
    first = first_of(error, ChannelSocketException)
    if first is None:
        raise error
    await first.run(message)


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
    except GeneratorExit as error:  # raised by the coroutine, not thrown into it
        raise NotAnException(error) from error
    return await resume(coroutine, context, trap)


async def enclosed(coroutine: Coroutine[Any, Any, object], context: Context) -> object:
    """As :func:`run`, and see that nothing is left open.

    Raises:
        LeftOpen: a cancel scope or a nursery is.
    """
    task = trio.lowlevel.current_task()
    place, nurseries = nesting(task), len(task.child_nurseries)
    try:
        return await run(coroutine, context)
    finally:
        if nesting(task) is not place or len(task.child_nurseries) > nurseries:
            raise left_open(task, place, nurseries=nurseries)


def as_coroutine(made: Any) -> Coroutine[Any, Any, object]:
    """What a handler has made, to be driven step by step: a decorator's function may give back any awaitable."""
    return made if hasattr(made, "send") else awaited(made)


async def awaited(made: Awaitable[object]) -> object:
    """``made`` as a coroutine."""
    return await made


def share_of_time(part: float = 0.5) -> float:
    """When, on Trio's clock, ``part`` of the time that is left to the caller is up; infinity where it has no bound."""
    now = trio.current_time()
    return now + part * (trio.current_effective_deadline() - now)


async def bounded(coroutine: Coroutine[Any, Any, object], seconds: float) -> object:
    """Await ``coroutine``; TooSlowError after ``seconds``."""
    with trio.fail_after(seconds):
        return await coroutine


_BEGINNING = frozenset({_first_step.__code__, first_step.__code__, call.__code__})
_FINISHING = Held.finish.__code__


class LeftOpen(RuntimeError):
    """A handler has ended within a cancel scope or a nursery that it had opened."""


def nesting(task: trio.lowlevel.Task) -> object:
    """Where ``task`` is among its cancel scopes: the same object after a handler as before it, unless that has left a
    cancel scope or a nursery open. An async generator does so that yields within one, where nobody closes it."""
    return task._cancel_status


def left_open(
    task: trio.lowlevel.Task, place: Any, error: BaseException | None = None, *, nurseries: int = 0
) -> LeftOpen:
    """Take ``task`` out of what a handler has left open in it, and say so.

    Whatever the task does next would be cancelled with the scope, and a task that ends with a nursery takes the one
    that it runs in itself along.

    Args:
        place: where it was before, as :func:`nesting` has it.
        error: what the handler raised.
        nurseries: that were open before.
    """
    for nursery in task.child_nurseries[nurseries:]:
        nursery.cancel_scope.cancel()
    del task._child_nurseries[nurseries:]
    task._activate_cancel_status(place)
    found = LeftOpen(
        "a cancel scope or a nursery was left open. Enter scopes by 'with' only, and close async generators that "
        "have one: async with contextlib.aclosing(generator)"
    )
    found.__context__ = error
    return found


class NotAnException(RuntimeError):
    """A handler has raised what is no ``Exception``, and yet no business of Trio's or the process's: the
    ``CancelledError`` of asyncio, say. Its cause is what was raised."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(
            f"{type(error).__module__}.{type(error).__qualname__} was raised, which is no Exception"
        )


_GOES_ON = (trio.Cancelled, KeyboardInterrupt, SystemExit)
"""Raised to end more than a handler. All else is the handler's own failure, and one connection's affair."""


def parted(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """What of ``error`` the program raised, and what has to go on: a cancellation, KeyboardInterrupt, SystemExit.

    A nursery whose child raises while it is cancelled raises both in one group.
    """
    if isinstance(error, Exception):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        others, rest = error.split(_GOES_ON)
        return None if rest is None else _as_exception(rest), others
    if isinstance(error, _GOES_ON):
        return None, error
    return _as_exception(error), None


def _as_exception(error: BaseException) -> Exception:
    if isinstance(error, Exception):
        return error
    wrapped = NotAnException(error)
    wrapped.__cause__ = error
    return wrapped


def report(logger: logging.Logger, text: str, *args: object, error: BaseException) -> None:
    """Log an error. Where a handler of the log raises itself, that goes to the standard error, as what logging's own
    handlers raise: a log that can't be written ends no connection, and no server.

    A missing attribute of an object whose class has an ``_about_missing`` gets that as a note.
    """
    _add_notes(error)
    try:
        logger.error(text, *args, exc_info=error)
    except Exception as unwritten:  # noqa: BLE001 - a handler of the log is the program's
        show_unwritten(unwritten, error)


def _add_notes(error: BaseException) -> None:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            _add_notes(each)
    elif isinstance(error, AttributeError) and not hasattr(error, "__notes__"):
        about = getattr(type(error.obj), "_about_missing", None)
        if about is not None and error.name is not None and (text := about(error.name)) not in str(error):
            error.add_note(text)


def forget(error: BaseException) -> None:
    """Let go of what an error that has been dealt with was raised through.

    Those who have dealt with it are among these frames, and have it in a variable: a circle with all that they hold,
    such as a connection and its socket, which only the garbage collector would find.
    """
    error.__traceback__ = None


class Barrier:
    """Around what runs the program's code in a task of its own: what is raised is reported, and goes no further.

    A cancellation goes on, also where an error came beside it. A ConnectionClosed is no error of the program's, where
    there is somebody whose message is handled: that one may go at any time.

    Args:
        report: called with the error.
        of_a_client: it is for one, so that a ConnectionClosed is not reported.
    """

    def __init__(self, report: Callable[[Exception], None], *, of_a_client: bool = True) -> None:
        self._report = report
        self._of_a_client = of_a_client

    def __enter__(self) -> None:
        """Nothing is opened."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None or isinstance(error, GeneratorExit):  # the latter: what awaits is closed
            return False
        mine, others = parted(error)
        if mine is not None and not (self._of_a_client and only(mine, ConnectionClosed)):
            self._report(mine)
        if others is not None and mine is not None:
            raise others from None
        return others is None


def only(error: BaseException, kind: type[BaseException]) -> bool:
    """``error`` is of ``kind``, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(kind)[1] is None
    return isinstance(error, kind)


def cancelled(error: BaseException) -> bool:
    """Trio has cancelled what raised ``error``, whatever else it raised then."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(trio.Cancelled) is not None
    return isinstance(error, trio.Cancelled)


def first_of(error: BaseException, kind: type[E]) -> E | None:
    """The first error in ``error``, where it is of ``kind`` or a group of nothing else; else None."""
    if not only(error, kind):
        return None
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return cast(E, error)

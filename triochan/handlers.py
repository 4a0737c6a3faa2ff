"""Running a handler in the task that has its message, and noticing when it first has to wait.

A handler that never waits costs no task and no switch. At its first real suspension ``on_suspend`` is called, which
lets another task go on with what this one was doing; the handler then continues in the task that it began in.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import trio

from .message import Message
from .routing import Consumer


async def nothing(message: Message, **kwargs: Any) -> None:
    """The consumer of a message that nobody has anything to do about; it need not be called."""


def start(
    consumer: Consumer, message: Message, kwargs: dict[str, Any], timeout: float | None = None
) -> Coroutine[Any, Any, object]:
    """The coroutine that lets ``consumer`` handle ``message``: a class gets an instance for it.

    Args:
        timeout: seconds that it may take; then it raises TooSlowError.
    """
    handler: Coroutine[Any, Any, object] = (
        consumer.begin(message, kwargs) if isinstance(consumer, type) else consumer(message, **kwargs)  # type: ignore[attr-defined]
    )
    return handler if timeout is None else bounded(handler, timeout)


async def run_inline(coroutine: Coroutine[Any, Any, object], on_suspend: Callable[[], None]) -> None:
    """Run ``coroutine`` to its end in this task; a checkpoint only where the coroutine has one.

    What it raises comes out; a cancellation reaches it as it would if it were awaited.
    """
    try:
        trap = coroutine.send(None)
    except StopIteration:
        return
    on_suspend()
    await resume(coroutine, trap)


@types.coroutine
def resume(coroutine: Coroutine[Any, Any, object], trap: Any) -> Generator[Any, Any, None]:
    """Await the rest of ``coroutine``, which has stopped at ``trap``."""
    try:
        while True:
            try:
                value = yield trap
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001, ASYNC103 - it goes on into the coroutine
                trap = coroutine.throw(error)
            else:
                trap = coroutine.send(value)
    except StopIteration:
        return


async def bounded(coroutine: Coroutine[Any, Any, object], seconds: float) -> None:
    """Await ``coroutine``; TooSlowError after ``seconds``."""
    with trio.fail_after(seconds):
        await coroutine


def only(error: BaseException, kind: type[BaseException]) -> bool:
    """``error`` is of ``kind``, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(kind)[1] is None
    return isinstance(error, kind)

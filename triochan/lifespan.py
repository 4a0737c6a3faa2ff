"""What lives as long as an application is served: its start-up and its end, its nursery, what it does periodically."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

import attrs
import trio

from .exceptions import ImproperlyConfigured
from .handlers import Barrier, run
from .routing import name_of
from .running import SharedBlock, run_local

logger = logging.getLogger("triochan.lifespan")
T_contra = TypeVar("T_contra", contravariant=True)


class Lifespan(Protocol[T_contra]):
    """A function of the application that gives an async context manager: ``@asynccontextmanager`` makes one."""

    def __call__(self, application: T_contra, /) -> AbstractAsyncContextManager[None]: ...


_PLAIN = contextmanager(lambda: iter(())).__code__
"""Of whatever contextlib's ``@contextmanager`` makes, which nobody can enter with ``async with``."""

Open: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]


def check_lifespan(lifespan: object) -> None:
    """Find at definition what would fail at the start.

    Raises:
        ImproperlyConfigured: not a function of the application, or one whose result can't be entered.
    """
    if not callable(lifespan):
        raise ImproperlyConfigured(
            f"lifespan is a function of the application with @asynccontextmanager, not {lifespan!r:.100}"
        )
    if inspect.isasyncgenfunction(lifespan) or inspect.iscoroutinefunction(lifespan):
        raise ImproperlyConfigured(
            f"lifespan={name_of(lifespan)} is no context manager; write @asynccontextmanager above it"
        )
    if inspect.isgeneratorfunction(lifespan) or getattr(lifespan, "__code__", None) is _PLAIN:
        raise ImproperlyConfigured(
            f"lifespan={name_of(lifespan)} is a plain 'def' with a yield; what goes is an 'async def' below "
            "@asynccontextmanager"
        )
    try:
        inspect.signature(lifespan).bind(object())
    except TypeError as error:
        raise ImproperlyConfigured(
            f"lifespan={name_of(lifespan)} is called with the application and nothing else: {error}"
        ) from None
    except ValueError:  # it is of a kind that says nothing of its arguments
        pass


@asynccontextmanager
async def living(application: Hashable, lifespan: Open | None) -> AsyncIterator[None]:
    """Keep an application's nursery and lifespan open for as long as the block lasts.

    Several servers of one application in one Trio run share them: the first one begins them, the last one ends them.
    What the lifespan, or a task in the nursery, raises, is raised by every block.

    Args:
        application: whose they are.
        lifespan: makes the context manager; None: there is only the nursery.
    """
    living = run_local().of(_Living)
    while (block := living.blocks.get(application)) is not None and await block.ending():
        pass
    if block is None:
        block = living.blocks[application] = SharedBlock(
            partial(_live, application, lifespan), partial(living.forget, application)
        )
        block.start()
    async with block.held():
        yield


def nursery_of(application: Hashable) -> trio.Nursery:
    """The nursery that lives as long as this Trio run serves ``application``.

    Raises:
        RuntimeError: it does not.
    """
    nursery = run_local().of(_Living).nurseries.get(application)
    if nursery is None:
        raise RuntimeError(
            "this application is not served in this Trio run, so there is no nursery that lives as long; "
            "triochan.serve serves it, or a test client"
        )
    return nursery


@asynccontextmanager
async def _live(application: Hashable, lifespan: Open | None) -> AsyncIterator[None]:
    nurseries = run_local().of(_Living).nurseries
    try:
        async with trio.open_nursery() as nursery:
            nurseries[application] = nursery
            try:
                if lifespan is None:
                    yield
                else:
                    async with lifespan() as given:
                        _check_given(given)
                        yield
            finally:
                del nurseries[application]
            nursery.cancel_scope.cancel()
    except ExceptionGroup as group:
        # One error is what it is: the group says only that there is a nursery.
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from group.exceptions[0].__cause__  # noqa: ASYNC123 - as above


def _check_given(given: object) -> None:
    if given is not None:
        raise ImproperlyConfigured(
            f"the lifespan yields {given!r:.100}; it yields nothing: set application.state.NAME = … instead"
        )


@attrs.define(eq=False)
class _Living:
    """What lives in this Trio run, by application."""

    blocks: dict[Hashable, SharedBlock[None]] = attrs.field(factory=dict)
    nurseries: dict[Hashable, trio.Nursery] = attrs.field(factory=dict)

    def forget(self, application: Hashable) -> None:
        del self.blocks[application]


async def every(
    seconds: float, function: Callable[..., Awaitable[object]], /, *args: object, at_once: bool = False
) -> None:
    """Call an async function again and again, until cancelled: ``nursery.start_soon(every, 60, clean_up)``.

    A call that takes longer than ``seconds`` is not overlapped: the times that pass meanwhile are left out. What a
    call raises is logged, and the next one comes in its time.

    Args:
        seconds: from one call's beginning to the next one's.
        args: for the function.
        at_once: call first now, not in ``seconds``.

    Raises:
        ValueError: ``seconds`` is not a number above 0.
        TypeError: ``function`` is none.
    """
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise ValueError(f"every() takes a number of seconds above 0, not {seconds!r}")
    if not callable(function):
        raise TypeError(
            f"every() calls an async function, not {function!r:.100}: pass the function, not what it gives"
        )

    async def call() -> None:
        await function(*args)

    def raised(error: Exception) -> None:
        logger.error("%s raised; it is called again", name_of(function), exc_info=error)

    due = trio.current_time() + (0 if at_once else seconds)
    while True:
        await trio.sleep_until(due)
        with Barrier(raised, of_a_client=False):
            await run(call())
        passed = trio.current_time() - due
        due += seconds * max(1, math.ceil(passed / seconds))

"""What lives as long as an application is served: its start-up and its end, its nursery, what it does periodically."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import NoReturn, Protocol, TypeAlias, TypeVar

import attrs
import trio

from .exceptions import ImproperlyConfigured, LayerUnavailable
from .handlers import Barrier, run
from .layers import ChannelLayer, current_layer
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
    seconds: float,
    function: Callable[..., Awaitable[object]],
    /,
    *args: object,
    at_once: bool = False,
    once: bool | str = False,
) -> None:
    """Call an async function again and again, until cancelled: ``nursery.start_soon(every, 60, clean_up)``.

    A call that takes longer than ``seconds`` is not overlapped: the times that pass meanwhile are left out. What a
    call raises is logged, and the next one comes in its time.

    With ``once``, of all processes on one channel layer one calls it, for as long as it lives: the one that was there
    first. When it ends, another goes on at its own next time; when it is killed or is not heard of any more, after
    15 s. Only a process that the engine could not be reached from for so long may be in a call still when another
    begins one.

    Args:
        seconds: from one call's beginning to the next one's.
        args: for the function.
        at_once: call first now, not in ``seconds``.
        once: call it in one process; a string is its name among what is called once, else that is the function's.

    Raises:
        ValueError: ``seconds`` is not a number above 0.
        TypeError: ``function`` is none, or ``once`` is neither a bool nor a name.
        RuntimeError: ``once``, and no channel layer runs here.
    """
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise ValueError(f"every() takes a number of seconds above 0, not {seconds!r}")
    if not callable(function):
        raise TypeError(
            f"every() calls an async function, not {function!r:.100}: pass the function, not what it gives"
        )
    if not isinstance(once, (bool, str)) or once == "":
        raise TypeError(f"once is True, False or a name, not {once!r:.100}")
    if once is False:
        await _repeat(seconds, function, args, at_once, lambda: True)
    name = once if isinstance(once, str) else name_of(function)
    lease = _Lease(current_layer(), name)
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(lease.keep)
            await _repeat(seconds, function, args, at_once, lambda: lease.held)
        finally:
            with trio.move_on_after(_LET_GO_SECONDS, shield=True):
                await lease.let_go()  # noqa: ASYNC102 - bounded, above


async def _repeat(
    seconds: float,
    function: Callable[..., Awaitable[object]],
    args: tuple[object, ...],
    at_once: bool,
    mine: Callable[[], bool],
) -> NoReturn:
    async def call() -> None:
        await function(*args)

    def raised(error: Exception) -> None:
        logger.error("%s raised; it is called again", name_of(function), exc_info=error)

    due = trio.current_time() + (0 if at_once else seconds)
    while True:
        await trio.sleep_until(due)
        if mine():
            with Barrier(raised, of_a_client=False):
                await run(call())
        passed = trio.current_time() - due
        due += seconds * max(1, math.ceil(passed / seconds))


_LEASE_SECONDS = 15.0
"""After which another process calls what is called once, where the one that did is not heard of any more."""
_LET_GO_SECONDS = 2.0
"""How long the end waits for the layer to let another process go on."""


class _Lease:
    """What one process on a layer has at a time.

    Args:
        layer: where.
        name: of it.
    """

    def __init__(self, layer: ChannelLayer, name: str) -> None:
        self._layer = layer
        self._name = name
        self._holder = secrets.token_hex(8)
        self._until = -math.inf
        self._told = False

    @property
    def held(self) -> bool:
        """This process has it."""
        return trio.current_time() < self._until

    async def keep(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Get it, and keep it, as far as no other process has it; started once the layer has said so or failed to."""
        while True:
            asked = trio.current_time()
            try:
                had = await self._layer.hold(self._name, self._holder, _LEASE_SECONDS)
            except LayerUnavailable as error:
                if not self._told:
                    self._told = True
                    logger.warning("%s; what is called once is not called while that lasts", error)
            else:
                self._told = False
                self._until = asked + _LEASE_SECONDS if had else -math.inf
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await trio.sleep(_LEASE_SECONDS / 5)

    async def let_go(self) -> None:
        """Another process may have it at once."""
        if self.held:
            with contextlib.suppress(LayerUnavailable):  # it runs out
                await self._layer.hold(self._name, self._holder, 0)

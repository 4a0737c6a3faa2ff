"""``--workers``: a parent process that keeps several servers running on one port.

It never imports the application (:mod:`triochan.children` is how parent and children talk). On Linux each worker has a
TCP socket of its own, among which the system spreads connections (SO_REUSEPORT); Unix sockets and inherited ones are
shared. The parent has all of them open, so that what waits in the queue of a worker that dies is lost to nobody: the
others take it until the successor serves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

import attrs
import trio

from .backoff import Backoff, how_it_ended
from .children import Brief, Child, end_all
from .configuration import Configuration
from .options import OPTIONS
from .private_engine import PrivateEngine, private_engine
from .server import HOST, PORT
from .sessions.cookies import SECRET_VARIABLE
from .standard_streams import has_terminal
from .watchdog import GRACE
from .wire import binds
from .wire.listeners import open_binds, take_over, twins

logger = logging.getLogger("triochan.supervisor")

_SLOW = 60.0
"""Seconds after which a worker that does not serve yet is told of."""


class Worker(Protocol):
    """A server's process, as :class:`triochan.children.Child` is one."""

    @property
    def pid(self) -> int: ...

    @property
    def status(self) -> int | None:
        """Its exit status, that of a signal negative; None: it runs."""

    async def wait(self) -> int:
        """Wait for its end: its status."""

    async def loaded(self) -> bool:
        """Wait until it has imported the application; False: it has ended."""

    async def serving(self) -> str | None:
        """Wait until it serves: what it says of itself; None: it has ended."""

    def tell(self, word: str, worker: int | None = None) -> None: ...

    async def end(self, seconds: float) -> None:
        """Let it shut down in order for so long. Where this is cancelled, it does so all the same."""

    def hurry(self) -> None: ...


@attrs.define(eq=False)
class _Place:
    """A worker's place: who has it, and what is known of it.

    Attributes:
        number: from 1 on.
        current: the worker that serves there; None: it is vacant.
        began: when that began to serve.
        filling: held while a new one is started.
    """

    number: int
    current: Worker | None = None
    began: float = 0.0
    backoff: Backoff = attrs.field(factory=Backoff)
    filling: trio.Lock = attrs.field(factory=trio.Lock)

    @property
    def vacant(self) -> bool:
        return self.current is None


class Supervisor:
    """Keeps workers running, replaces those that end, and all of them one after the other when asked to.

    Args:
        count: how many.
        start: starts the worker of a number.
        drain_seconds: how long one may take to shut down.
        began: called with what the first worker says of itself, when all serve.

    Attributes:
        failed: the exit status of a worker that did not come up at the first start; the others are not waited for.
        children: all processes that run, in the order in which they were started, and whether each has served.
    """

    def __init__(
        self,
        count: int,
        start: Callable[[int], Awaitable[Worker]],
        *,
        drain_seconds: float,
        began: Callable[[str], None],
    ) -> None:
        self._places = [_Place(number) for number in range(1, count + 1)]
        self._start = start
        self._drain_seconds = drain_seconds
        self._began = began
        self.failed: int | None = None
        self.children: dict[Worker, bool] = {}

    async def run(self, replacing: trio.MemoryReceiveChannel[None]) -> None:
        """Start all; then keep them, and replace them for each item of ``replacing``. Until cancelled, or
        :attr:`failed`; the processes that run then are left."""
        async with trio.open_nursery() as nursery:
            said = await self._first_start(nursery)
            if said is not None:
                self._began(said)
                async for _ in replacing:
                    await self._replace_all(nursery)
            nursery.cancel_scope.cancel()

    async def _first_start(self, watching: trio.Nursery) -> str | None:
        """What the first says; None: one has failed."""
        said: str | None = None
        async with trio.open_nursery() as nursery:

            async def fill(place: _Place, worker: Worker | None) -> None:
                nonlocal said
                heard = await self._fill(place, watching, worker)
                if isinstance(heard, int):
                    self.failed = heard if heard > 0 else 1
                    nursery.cancel_scope.cancel()
                elif place is self._places[0]:
                    said = heard

            # What can't be imported is said once: the others begin when it could.
            first, *others = self._places
            worker = await self._begin(first)
            if worker is not None and await worker.loaded():
                for place in others:
                    nursery.start_soon(fill, place, await self._begin(place))
            await fill(first, worker)
        return None if self.failed is not None else said

    async def _begin(self, place: _Place) -> Worker | None:
        """Start a process; None: the system has none to give."""
        try:
            worker = await self._start(place.number)
        except OSError as error:
            logger.error("worker %d can't be started: %s", place.number, error.strerror or error)
            return None
        self.children[worker] = False
        worker.tell("go")
        return worker

    async def _fill(self, place: _Place, watching: trio.Nursery, worker: Worker | None) -> str | int:
        """Let a worker take its place when it serves, and end the one that had it: what it says; or the exit status of
        one that did not come up."""
        if worker is None:
            return 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_slow, place)
            said = await worker.serving()
            nursery.cancel_scope.cancel()
        if said is None:
            status = await worker.wait()
            del self.children[worker]
            logger.error(
                "worker %d (process %d) did not come up: %s, see above",
                place.number, worker.pid, how_it_ended(status),
            )  # fmt: skip
            return status
        self.children[worker] = True
        old, place.current = place.current, worker
        place.began = trio.current_time()
        for other in self._places:
            if other.current is None:
                worker.tell("cover", other.number)
            elif old is None and other is not place:
                other.current.tell("uncover", place.number)
        watching.start_soon(self._watch, place, worker, watching)
        if old is not None:
            await old.end(self._drain_seconds)
            self.children.pop(old, None)
        return said

    async def _tell_slow(self, place: _Place) -> None:
        await trio.sleep(_SLOW)
        logger.warning("worker %d does not serve yet, after %g s", place.number, _SLOW)

    async def _watch(self, place: _Place, worker: Worker, watching: trio.Nursery) -> None:
        """See that another one takes its place when it ends."""
        status = await worker.wait()
        if place.current is not worker:
            return  # it was replaced
        self.children.pop(worker, None)
        place.current = None
        for other in self._places:
            if other.current is not None:
                other.current.tell("cover", place.number)
        seconds = place.backoff.after(trio.current_time() - place.began)
        logger.error(
            "worker %d (process %d) has ended: %s; another is started in %g s",
            place.number, worker.pid, how_it_ended(status), seconds,
        )  # fmt: skip
        while True:
            await trio.sleep(seconds)
            async with place.filling:
                if not place.vacant:
                    return  # somebody has asked for new ones meanwhile
                if isinstance(await self._fill(place, watching, await self._begin(place)), str):
                    logger.info("worker %d serves again", place.number)
                    return
            seconds = place.backoff.after(0)
            logger.error("worker %d is tried again in %g s", place.number, seconds)

    async def _replace_all(self, watching: trio.Nursery) -> None:
        """One after the other. Where a new one does not come up, the old ones that are left stay."""
        logger.info("replacing the workers, one after the other")
        for place in self._places:
            async with place.filling:
                if isinstance(await self._fill(place, watching, await self._begin(place)), int):
                    logger.error("the workers that are left are not replaced; SIGHUP tries again")
                    return
        logger.info("all workers are new ones")


async def _supervise(
    configuration: Configuration,
    arguments: Sequence[str],
    sockets: Sequence[socket.socket],
    announce: Callable[[str], None],
) -> int:
    options = configuration.options
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    at_terminal = has_terminal()
    stopped = 0
    with contextlib.ExitStack() as held:
        shared, own = await _listeners(configuration, sockets, held)
        async with _engine(configuration) as engine:
            start = partial(_start, configuration, arguments, shared, own, engine)
            began = False

            def all_serve(said: str) -> None:
                nonlocal began
                began = True
                announce(f"{said}, by {options.workers} worker{'' if options.workers == 1 else 's'}")

            drain_seconds = options.shutdown_timeout + 2 * GRACE
            supervisor = Supervisor(options.workers, start, drain_seconds=drain_seconds, began=all_serve)
            with trio.open_signal_receiver(*numbers) as received:
                async with trio.open_nursery() as nursery:
                    send, replacing = trio.open_memory_channel[None](1)

                    async def run() -> None:
                        await supervisor.run(replacing)
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(run)
                    async for number in received:
                        if number != signal.SIGHUP or at_terminal:
                            stopped = number
                            break
                        with contextlib.suppress(trio.WouldBlock):  # one more is waiting already
                            send.send_nowait(None)
                    nursery.cancel_scope.cancel()
                if stopped:
                    logger.info("%s: the workers shut down", signal.Signals(stopped).name)
                held.close()  # from now on a successor can have the port
                left = supervisor.children
                await end_all(left, drain_seconds, received)
    if supervisor.failed is not None:
        return supervisor.failed
    if not began:
        return 128 + stopped
    return 1 if any(served and worker.status for worker, served in left.items()) else 0


async def _listeners(
    configuration: Configuration, sockets: Sequence[socket.socket], held: contextlib.ExitStack
) -> tuple[list[int], list[list[int]]]:
    """The descriptors that all workers listen on, and those of each one alone, in the order of addresses."""
    options = configuration.options
    if not options.listen:
        return [], []
    taken = take_over(sockets, "http")
    for listener, _ in taken:
        held.callback(listener.close)
    places = configuration.binds or ([] if taken else [binds.place(HOST, PORT)])
    opened = await open_binds(binds.parse_binds(places), "http", uds_mode=options.uds_mode)
    for listener, _ in opened:
        held.callback(listener.close)
    shared = [listener.fileno() for listener, _ in taken]
    own: list[list[int]] = [[] for _ in range(options.workers)]
    for listener, address in opened:
        made = twins(listener, options.workers - 1) if address.path is None else []
        for twin in made:
            held.callback(twin.close)
        if len(made) < options.workers - 1:
            shared.append(listener.fileno())
            continue
        for mine, sock in zip(own, [listener, *made], strict=True):
            mine.append(sock.fileno())
    return shared, own


@contextlib.asynccontextmanager
async def _engine(configuration: Configuration) -> AsyncIterator[PrivateEngine | None]:
    """A private one, where the workers have no other to share."""
    if not configuration.needs_engine:
        yield None
        return
    async with private_engine(configuration.options.layer_timeout) as engine:
        logger.info("a private engine runs, on %s", engine.url)
        yield engine


async def _start(
    configuration: Configuration,
    arguments: Sequence[str],
    shared: Sequence[int],
    own: Sequence[Sequence[int]],
    engine: PrivateEngine | None,
    number: int,
) -> Child:
    others = {index: mine for index, mine in enumerate(own, 1) if index != number and mine}
    brief = Brief(
        arguments,
        [*(own[number - 1] if own else ()), *shared],
        number,
        others,
        () if engine is None else (engine.held,),
    )
    title = f"{configuration.options.app} worker {number}"
    variables = None if engine is None else {**os.environ, OPTIONS["layer"].variable: engine.url}
    return await Child.start(brief, title, variables)


def supervise(
    configuration: Configuration,
    arguments: Sequence[str],
    sockets: Sequence[socket.socket],
    announce: Callable[[str], None],
) -> int:
    """Serve by ``--workers`` processes until SIGINT or SIGTERM; the exit status: 0 after a shutdown, 1 where that cut
    something off; that of a worker which did not come up at the first start.

    Args:
        configuration: with ``workers``.
        arguments: that the configuration was made of, which the workers get as well.
        sockets: those that were inherited.
        announce: told when all serve, in a line.

    Raises:
        NoEngine: a private engine is needed, and can't be had.
        CannotListen, ImproperlyConfigured: an address can't be had.
    """
    if not os.environ.get(SECRET_VARIABLE):
        # A cookie that one worker has signed is read by another.
        os.environ[SECRET_VARIABLE] = secrets.token_urlsafe(32)
        logger.info(
            "no secret is configured: the workers share a random one, and the next start logs everybody out"
        )
    return trio.run(partial(_supervise, configuration, arguments, sockets, announce))

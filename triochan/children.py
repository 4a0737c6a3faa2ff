"""Servers in processes of their own, and what a parent and its child say to each other.

The parent never imports the application. It has the listening sockets and hands them down, so that clients that come
while no server runs wait in their queues. A child is a fresh interpreter, not a fork.

Parent and child share a pair of sockets; each message is a JSON list in a line. The parent begins with a
:class:`Brief`, for what an option says is nobody else's to read in the list of processes. The child says ``loaded``
when it has imported the application, waits for ``go``, and says ``serving`` once it does. When the parent's end is
closed, by the parent or with it, the child shuts down; so there are no orphans, and a stop that comes beside Ctrl-C at
the terminal, which both of them get, does not count as a second signal.

Workers have a socket each on the same port. While one is away, ``cover`` makes the others accept on its socket as well,
until ``uncover``: clients that the system has put into its queue do not wait for its return.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

import attrs
import trio

from .wire.inherited import adopt

logger = logging.getLogger("triochan.supervisor")

_HURRY = 1.0
"""Seconds between two more urgent words."""
_BRIEFING = 5.0
"""Seconds that a new process may take to begin to read."""
_READ = 4096

Accept = Callable[[socket.socket], Awaitable[None]]
"""Accepts connections on a listening socket until cancelled, and closes it."""


@attrs.frozen
class Brief:
    """What a child is to do.

    Attributes:
        arguments: of the command line.
        sockets: descriptors to listen on.
        worker: its number among the workers, from 1 on; None: it is no worker.
        others: descriptors of the sockets that are other workers' alone, by their numbers.
        held: descriptors that it only keeps open, so that others see whether it lives.
    """

    arguments: Sequence[str]
    sockets: Sequence[int]
    worker: int | None = None
    others: Mapping[int, Sequence[int]] = attrs.field(factory=dict)
    held: Sequence[int] = ()

    @property
    def descriptors(self) -> list[int]:
        """All that it is handed."""
        return [*self.sockets, *self.held, *(each for one in self.others.values() for each in one)]

    def encode(self) -> bytes:
        said = attrs.asdict(self)
        return json.dumps({**said, "others": list(self.others.items())}).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Brief:
        said = json.loads(line)
        return cls(**{**said, "others": dict(said["others"])})


# -- in the parent


class Child:
    """A server in a process of its own, as its parent sees it."""

    def __init__(self, process: trio.Process, line: socket.socket) -> None:
        self._process = process
        self._socket = line
        self._line = trio.socket.from_stdlib_socket(line)
        self._heard = b""
        self._patience = trio.CancelScope()
        self._hurried = False

    @classmethod
    async def start(cls, brief: Brief, title: str, environment: Mapping[str, str] | None = None) -> Child:
        """Start one.

        Args:
            brief: what it is told.
            title: stands behind its command in the list of processes.
            environment: its variables; None: this process's.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "triochan.child_process", str(theirs.fileno()), title]
            ours.setblocking(False)
            try:
                process = await trio.lowlevel.open_process(
                    command, pass_fds=[theirs.fileno(), *brief.descriptors], env=environment
                )
            except BaseException:
                ours.close()
                raise
        child = cls(process, ours)
        try:
            with (
                trio.move_on_after(_BRIEFING),
                contextlib.suppress(OSError),
            ):  # who waits for its end sees that
                left = memoryview(brief.encode())
                while left:
                    left = left[await child._line.send(left) :]
        except BaseException:
            child._line.close()
            process.kill()
            raise
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, that of a signal negative; None: it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        status = await self._process.wait()
        self._line.close()  # also where it has ended by itself
        return status

    async def loaded(self) -> bool:
        """Whether it has imported its application; False: it has ended."""
        return await self._next() == ["loaded"]

    async def serving(self) -> str | None:
        """Wait until it serves: the line that it says then; None: it has ended."""
        while True:
            said = await self._next()
            if not said:
                return None
            if said[0] == "serving":
                return str(said[1])

    async def _next(self) -> list[str]:
        while b"\n" not in self._heard:
            try:
                data = await self._line.recv(_READ)
            except (OSError, trio.ClosedResourceError):
                data = b""
            if not data:
                return []
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        said: list[str] = json.loads(line)
        return said

    def tell(self, word: str, worker: int | None = None) -> None:
        """Say ``go``, or ``cover`` or ``uncover`` with a worker's number."""
        message = json.dumps([word] if worker is None else [word, worker]).encode() + b"\n"
        with contextlib.suppress(OSError):  # it has ended; who waits for that sees it
            self._socket.send(message)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self, seconds: float) -> None:
        """Let it shut down in order for that long, or until :meth:`hurry`; then at once; then kill it. Where this is
        cancelled, the child shuts down all the same, and may be waited for again."""
        self._line.close()
        with trio.CancelScope(deadline=trio.current_time() + seconds) as self._patience:
            if not self._hurried:
                await self._process.wait()
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self.status is not None:
                return
            self.signal(number)
            with trio.move_on_after(_HURRY):
                await self._process.wait()
        await self._process.wait()

    def hurry(self) -> None:
        self._hurried = True
        self._patience.cancel()

    async def kill(self) -> None:
        """Before it serves there is nothing to shut down."""
        self._line.close()
        self._process.kill()
        await self._process.wait()


class Ending(Protocol):
    """A child, as far as :func:`end_all` needs it."""

    async def end(self, seconds: float) -> None:
        """See :meth:`Child.end`."""

    def hurry(self) -> None: ...


async def end_all(children: Iterable[Ending], seconds: float, received: AsyncIterator[int]) -> None:
    """End all of them, in parallel; a SIGINT or SIGTERM that comes meanwhile makes that at once.

    Args:
        children: those that run.
        seconds: how long each may take.
        received: signals.
    """
    ending = list(children)

    async def hurry() -> None:
        async for number in received:
            if number != signal.SIGHUP:
                for child in ending:
                    child.hurry()

    async with trio.open_nursery() as hearing:
        hearing.start_soon(hurry)
        async with trio.open_nursery() as nursery:
            for child in ending:
                nursery.start_soon(child.end, seconds)
        hearing.cancel_scope.cancel()


# -- in the child


class Leash:
    """The child's end of the pair of sockets.

    Args:
        number: its descriptor.

    Attributes:
        brief: what the parent wants.
        sockets: to listen on.
    """

    def __init__(self, number: int) -> None:
        self._line = socket.socket(fileno=number)
        self._line.set_inheritable(False)
        self._lines = self._line.makefile("rb")
        said = self._lines.readline()
        if not said:  # the parent has gone
            self._line.close()
            self._lines.close()
            raise SystemExit(1)
        self.brief = brief = Brief.decode(said)
        self.sockets = [adopt(each) for each in brief.sockets]
        self._others = {worker: [adopt(each) for each in one] for worker, one in brief.others.items()}
        for each in brief.held:
            os.set_inheritable(each, False)
        self._may_go = threading.Event()
        self._let_go = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._seconds = 0.0
        self._away: frozenset[int] = frozenset()
        self._changed: tuple[trio.lowlevel.TrioToken, trio.Event] | None = None
        threading.Thread(target=self._listen, name="triochan's leash", daemon=True).start()

    def wait(self, seconds: float) -> None:
        """The application is loaded: say so, and wait until it may be served.

        Args:
            seconds: how long the process may take to end by itself when the parent lets go while it serves.
        """
        self._seconds = seconds
        self._say("loaded")
        self._may_go.wait()

    def serves(self, line: str) -> None:
        """Say that it is served; called within Trio. From now on the parent may let go."""
        self._token = trio.lowlevel.current_trio_token()
        self._say("serving", line)

    def _say(self, *words: str) -> None:
        with contextlib.suppress(OSError):  # the parent has gone: that is heard as well
            self._line.sendall(json.dumps(words).encode() + b"\n")

    async def gone(self) -> None:
        """Wait until the parent lets go."""
        await self._let_go.wait()

    async def stand_in(self, accept: Accept) -> None:
        """Accept on the sockets of other workers while they are away; until cancelled. Then these sockets are closed:
        as long as one process has them, a successor of the whole command can't have the port."""
        token = trio.lowlevel.current_trio_token()
        covered: dict[int, trio.CancelScope] = {}
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    changed = trio.Event()
                    self._changed = token, changed
                    away = self._away
                    for worker in covered.keys() - away:
                        covered.pop(worker).cancel()
                    for worker in away - covered.keys():
                        scope = covered[worker] = trio.CancelScope()
                        for sock in self._others.get(worker, ()):
                            nursery.start_soon(_accept_within, scope, accept, sock.dup())
                    await changed.wait()
        finally:
            for sock in itertools.chain.from_iterable(self._others.values()):
                sock.close()

    def _listen(self) -> None:
        with contextlib.suppress(
            OSError, ValueError
        ):  # it was reset, or torn in a message: as if it was closed
            for line in self._lines:
                self._take(*json.loads(line))
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):  # it is at its end by itself
                self._token.run_sync_soon(self._let_go.set)
            time.sleep(self._seconds)
        os._exit(1)

    def _take(self, word: str, *workers: int) -> None:
        if word == "go":
            self._may_go.set()
            return
        self._away = self._away.union(workers) if word == "cover" else self._away.difference(workers)
        if self._changed is not None:
            token, changed = self._changed
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(changed.set)


async def _accept_within(scope: trio.CancelScope, accept: Accept, sock: socket.socket) -> None:
    with scope, sock:
        await accept(sock)

"""What processes say to each other: replies for connections, and questions that are answered."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import msgpack
import trio

from ...exceptions import ConnectionClosed, LayerUnavailable, TriochanError
from ...replies import parse_http, parse_websocket
from ..base import Endpoint
from .codec import decode, encode
from .engine import Engine

logger = logging.getLogger("triochan.layers")

WAITING_BYTES = 2**23
"""Replies from other processes that may wait for one connection."""
_OVERHEAD = 100
"""Bytes that a reply which waits counts at the least."""

_REPLY, _QUESTION, _ANSWER = range(3)  # stand in messages: none may change its meaning

Answers = Callable[..., Awaitable[Any]]


class Inbox:
    """One process's: a subscription by which the others reach it, and another by which they reach all.

    Args:
        engine: through which they do.
        process: this one's mark, which the names of its reply channels bear.
        endpoints: its connections, by their reply channels' names.
        questions: what others may ask: the name, and what answers it, given the question's arguments.

    Attributes:
        lost: replies that reached no connection: it, or its process, was gone; or too many waited for it.
    """

    def __init__(
        self,
        engine: Engine,
        process: str,
        endpoints: Mapping[str, Endpoint],
        questions: Mapping[str, Answers],
    ) -> None:
        self.lost = 0
        self._engine = engine
        self._process = process
        self._endpoints = endpoints
        self._questions = questions
        self._nursery: trio.Nursery
        self._waiting: dict[str, _Waiting] = {}
        self._serial = itertools.count(1)
        self._asked: dict[int, _Asked] = {}

    async def open(self, nursery: trio.Nursery) -> None:
        """Take what comes; replies and answers are given in tasks of ``nursery``.

        Raises:
            LayerUnavailable: the engine does not answer.
        """
        self._nursery = nursery
        topics = self._topic(self._process), self._engine.topic("all")
        for topic in topics:
            self._engine.subscriptions.want(topic, self._take)
        for topic in topics:
            await self._engine.confirmed(topic)

    def _topic(self, process: str) -> str:
        return self._engine.topic("process", process)

    async def _publish(self, topic: str, *said: Any) -> int:
        """How many processes have it."""
        heard: int = await self._engine.ask(self._engine.request(b"PUBLISH", topic, msgpack.packb(said)))
        return heard

    # -- saying

    async def reply(self, channel: str, content: dict[str, Any]) -> None:
        """Send to another process's connection.

        Raises:
            ConnectionClosed: its process is gone.
            ValueError: nothing that such a connection could take.
            LayerUnavailable: the engine does not answer.
        """
        process = process_of(channel)
        if channel.startswith("websocket."):
            parse_websocket(content)
        elif channel.startswith("http."):
            parse_http(content, started="status" not in content)
        if process == self._process or not await self._publish(
            self._topic(process), _REPLY, channel, encode(content)
        ):
            if process != self._process:
                self.lost += 1
            raise ConnectionClosed(1006, f"no connection has the reply channel {channel!r}")

    async def ask(self, process: str, question: str, *arguments: str) -> Any:
        """Another process's answer; None where it is gone.

        Raises:
            LayerUnavailable: it could not do it, or does not answer within the engine's time.
        """
        asked = await self._ask(self._topic(process), question, arguments)
        if not asked.complete:
            raise LayerUnavailable(f"process {process} did not answer within {self._engine.timeout:g} s")
        for _, error in asked.answers:
            if error is not None:
                raise LayerUnavailable(error)
        return asked.answers[0][0] if asked.answers else None

    async def ask_all(self, question: str, *arguments: str) -> list[Any]:
        """The answers of all processes, this one's among them; of those that answer within the engine's time."""
        asked = await self._ask(self._engine.topic("all"), question, arguments)
        if not asked.complete:
            logger.warning(
                "%d of %d processes answered %r within %g s",
                len(asked.answers),
                asked.count,
                question,
                self._engine.timeout,
            )
        return [answer for answer, error in asked.answers if error is None]

    async def _ask(self, topic: str, question: str, arguments: tuple[str, ...]) -> _Asked:
        serial = next(self._serial)
        asked = self._asked[serial] = _Asked()
        try:
            asked.count = await self._publish(topic, _QUESTION, self._process, serial, question, *arguments)
            with trio.move_on_after(self._engine.timeout):
                await asked.answered()
        finally:
            del self._asked[serial]
        return asked

    # -- hearing

    def _take(self, data: bytes) -> None:
        try:
            kind, *said = msgpack.unpackb(data)
            if kind == _REPLY:
                self._take_reply(*said)
            elif kind == _QUESTION:
                self._nursery.start_soon(self._answer, *said)
            elif kind == _ANSWER:
                self._take_answer(*said)
        except Exception:
            logger.exception("what another process sent is not understood, and dropped: %.200r", data)

    def _take_reply(self, channel: str, data: bytes) -> None:
        endpoint = self._endpoints.get(channel)
        if endpoint is None:
            self.lost += 1
            return
        waiting = self._waiting.get(channel)
        if waiting is None:
            # At once where it can be: so a message to a group does not overtake a reply that was sent before it.
            done = True
            with self._counting(channel):
                done = endpoint.try_deliver(decode(data))
            if done:
                return
            waiting = self._waiting[channel] = _Waiting()
            self._nursery.start_soon(self._deliver, channel, waiting)
        if waiting.size >= WAITING_BYTES:
            self.lost += 1
            if not waiting.told:
                waiting.told = True
                logger.warning(
                    "more than %d bytes of replies wait for %s; others are dropped", waiting.size, channel
                )
            return
        waiting.put(data)

    async def _deliver(self, channel: str, waiting: _Waiting) -> None:
        """Give a connection its replies, in their order, until none is left."""
        try:
            while waiting.replies:
                endpoint = self._endpoints.get(channel)
                data = waiting.take()
                if endpoint is None:
                    self.lost += 1
                else:
                    with self._counting(channel):
                        await endpoint.deliver(decode(data))
        finally:
            del self._waiting[channel]

    @contextmanager
    def _counting(self, channel: str) -> Iterator[None]:
        """A reply that its connection does not take is counted, and what is wrong with it told to the log."""
        try:
            yield
        except ConnectionClosed:
            self.lost += 1
        except ValueError as error:
            self.lost += 1
            logger.warning("a reply to %s from another process was refused: %s", channel, error)
        except Exception:
            self.lost += 1
            logger.exception("a reply to %s from another process was not delivered", channel)

    async def _answer(self, process: str, serial: int, question: str, *arguments: str) -> None:
        answer = error = None
        try:
            answer = await self._questions[question](*arguments)
        except TriochanError as raised:
            error = str(raised)
        except Exception as raised:
            logger.exception("process %s asked %r", process, question)
            error = repr(raised)
        try:
            await self._publish(self._topic(process), _ANSWER, serial, answer, error)
        except LayerUnavailable:
            pass  # who has asked is told the same

    def _take_answer(self, serial: int, answer: Any, error: str | None) -> None:
        asked = self._asked.get(serial)
        if asked is not None:
            asked.put(answer, error)


@attrs.define(eq=False)
class _Waiting:
    """Replies that wait for one connection."""

    replies: deque[bytes] = attrs.field(factory=deque)
    size: int = 0
    told: bool = False

    def put(self, data: bytes) -> None:
        self.replies.append(data)
        self.size += len(data) + _OVERHEAD

    def take(self) -> bytes:
        data = self.replies.popleft()
        self.size -= len(data) + _OVERHEAD
        return data


@attrs.define(eq=False)
class _Asked:
    """A question that ``count`` processes have heard, and the answers that have come."""

    count: int = 0
    answers: list[tuple[Any, str | None]] = attrs.field(factory=list)
    _came: trio.Event = attrs.field(factory=trio.Event)

    @property
    def complete(self) -> bool:
        return len(self.answers) >= self.count

    def put(self, answer: Any, error: str | None) -> None:
        self.answers.append((answer, error))
        self._came.set()

    async def answered(self) -> None:
        """Wait for all answers."""
        while not self.complete:
            self._came = trio.Event()
            await self._came.wait()


def process_of(channel: str) -> str:
    """The mark of the process whose connection has the reply channel ``channel``."""
    return channel.partition("!")[0].rpartition(".")[2]

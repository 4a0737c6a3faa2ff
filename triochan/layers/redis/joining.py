"""Requests that come while another one is under way go together: the more there are, the less each costs."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import attrs
import trio

from ...exceptions import LayerUnavailable

Q = TypeVar("Q")
A = TypeVar("A")


@attrs.define(eq=False)
class _Waiting(Generic[Q, A]):
    request: Q
    weight: int
    told: trio.Event = attrs.field(factory=trio.Event)
    answer: A | None = None
    error: str | None = None
    leads: bool = False


class Joined(Generic[Q, A]):
    """Asks for several at once. The first goes at once and alone; what comes until it is answered goes next, together.

    No task of its own: whoever is first of those that go together asks for all, and does so to the end.

    Args:
        ask: gives an answer for each request; within a bounded time, whatever happens.
        most: requests that go together.
        weight: of those that go together, unless it is one.
    """

    def __init__(
        self, ask: Callable[[Sequence[Q]], Awaitable[list[A]]], *, most: int = 64, weight: int = 2**18
    ) -> None:
        self._ask = ask
        self._most = most
        self._weight = weight
        self._busy = False
        self._waiting: deque[_Waiting[Q, A]] = deque()

    async def __call__(self, request: Q, weight: int) -> A:
        """The answer to one request.

        Args:
            weight: of it: bytes, say.

        Raises:
            LayerUnavailable: ``ask`` has raised it.
        """
        if not self._busy:
            self._busy = True
            try:
                return (await self._ask([request]))[0]
            finally:
                self._next()
        own: _Waiting[Q, A] = _Waiting(request, weight)
        self._waiting.append(own)
        try:
            await own.told.wait()
        except trio.Cancelled:
            if own.leads:
                self._next()
            elif own in self._waiting:
                self._waiting.remove(own)
            raise
        if own.leads:
            return await self._lead(own)
        if own.error is not None:
            raise LayerUnavailable(own.error)
        return own.answer  # type: ignore[return-value]

    async def _lead(self, own: _Waiting[Q, A]) -> A:
        together = [own]
        weight = own.weight
        while self._waiting and len(together) < self._most:
            weight += self._waiting[0].weight
            if weight > self._weight:
                break
            together.append(self._waiting.popleft())
        error = "the task that asked was broken off"
        answers: list[A] = []
        try:
            with trio.CancelScope(shield=len(together) > 1):  # the others' answers are in it
                answers = await self._ask([each.request for each in together])
        except LayerUnavailable as unavailable:
            error = str(unavailable)
            raise
        finally:
            for index, each in enumerate(together[1:], 1):
                if answers:
                    each.answer = answers[index]
                else:
                    each.error = error
                each.told.set()
            self._next()
        return answers[0]

    def _next(self) -> None:
        """Let the first of those that wait ask."""
        if self._waiting:
            first = self._waiting.popleft()
            first.leads = True
            first.told.set()
        else:
            self._busy = False

"""What something allocates. It runs twice and the less counts: the first time, it imports modules, fills caches, and
coverage learns of its lines."""

from __future__ import annotations

import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

TIMES = 2


@contextmanager
def _traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def _once(call: Callable[[], object]) -> tuple[int, int]:
    with _traced():
        result = call()
        measured = tracemalloc.get_traced_memory()
        del result
        return measured


def peak(call: Callable[[], object]) -> int:
    """Bytes that it holds at once, at most."""
    return min(_once(call)[1] for _ in range(TIMES))


def held(call: Callable[[], object]) -> int:
    """Bytes that it has left behind while its result lives."""
    return min(_once(call)[0] for _ in range(TIMES))


async def async_peak(call: Callable[[], Awaitable[object]]) -> int:
    """Bytes that it holds at once, at most."""
    return min([await _async_once(call) for _ in range(TIMES)], key=lambda each: each[1])[1]


async def async_held(call: Callable[[], Awaitable[object]]) -> int:
    """Bytes that it has left behind while its result lives."""
    return min([await _async_once(call) for _ in range(TIMES)])[0]


async def _async_once(call: Callable[[], Awaitable[object]]) -> tuple[int, int]:
    with _traced():
        result = await call()
        measured = tracemalloc.get_traced_memory()
        del result
        return measured

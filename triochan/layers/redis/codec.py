"""Contents as bytes, as they travel through an engine: msgpack, and what that lacks in extension types.

What is plain data goes: None, bool, int of any size, float, str, bytes, list, dict with str keys, datetime, date, time,
timedelta, Decimal, UUID. A tuple arrives as a list, an object of a subclass as one of its base, a time zone as its
offset from UTC.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgpack

from ...exceptions import InvalidContent

TOO_DEEP = "too deep to be sent to a channel: lists and objects within each other"
_PLAIN = "None, bool, int, float, str, bytes, list, dict, datetime, date, time, timedelta, Decimal, UUID"

# Numbers that stand in messages: none may change its meaning.
_INT, _DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID = range(1, 8)


def _extension(value: Any) -> Any:
    """What msgpack has no type of its own for."""
    if isinstance(value, int):  # beyond 64 bits
        return msgpack.ExtType(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if isinstance(value, dt.datetime):
        return msgpack.ExtType(_DATETIME, value.isoformat().encode())
    if isinstance(value, dt.date):
        return msgpack.ExtType(_DATE, value.isoformat().encode())
    if isinstance(value, dt.time):
        return msgpack.ExtType(_TIME, value.isoformat().encode())
    if isinstance(value, dt.timedelta):
        parts = (value.days, value.seconds, value.microseconds)
        return msgpack.ExtType(_TIMEDELTA, msgpack.packb(parts))
    if isinstance(value, Decimal):
        return msgpack.ExtType(_DECIMAL, str(value).encode())
    if isinstance(value, uuid.UUID):
        return msgpack.ExtType(_UUID, value.bytes)
    raise TypeError(f"{type(value).__name__} is not plain data")


_READ: dict[int, Callable[[bytes], Any]] = {
    _INT: lambda data: int.from_bytes(data, "big", signed=True),
    _DATETIME: lambda data: dt.datetime.fromisoformat(data.decode()),
    _DATE: lambda data: dt.date.fromisoformat(data.decode()),
    _TIME: lambda data: dt.time.fromisoformat(data.decode()),
    _TIMEDELTA: lambda data: dt.timedelta(*msgpack.unpackb(data)),
    _DECIMAL: lambda data: Decimal(data.decode()),
    _UUID: lambda data: uuid.UUID(bytes=data),
}


def _of_extension(code: int, data: bytes) -> Any:
    read = _READ.get(code)
    if read is None:
        raise ValueError(f"extension type {code} is none of triochan's")
    return read(data)


def encode(content: dict[str, Any]) -> bytes:
    """``content`` as bytes.

    Raises:
        TypeError: something in it is no plain data; the error names its key.
        InvalidContent: it is nested too deeply, some hundred levels.
    """
    try:
        # "surrogatepass": JSON that clients send may hold half a pair, and a layer in memory takes it.
        data: bytes = msgpack.packb(content, default=_extension, unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError, RecursionError):
        _refuse(content)
        raise InvalidContent([TOO_DEEP]) from None
    _check_keys(content)
    return data


def decode(data: bytes) -> dict[str, Any]:
    """The content that :func:`encode` made ``data`` of.

    Raises:
        ValueError: ``data`` is none: something else has written it.
    """
    try:
        content = msgpack.unpackb(
            data, ext_hook=_of_extension, unicode_errors="surrogatepass", strict_map_key=True
        )
    except (ValueError, TypeError, ArithmeticError, msgpack.UnpackException) as error:
        raise ValueError(f"no content of a message: {error or type(error).__name__}") from None
    if not isinstance(content, dict):
        raise ValueError(f"no content of a message: {type(content).__name__}")
    return content


def _check_keys(content: dict[str, Any]) -> None:
    """msgpack takes any key that it takes as a value; some would come out as what no dict takes.

    Raises:
        TypeError: one is no str.
    """
    waiting: list[Any] = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                if not isinstance(key, str):
                    _refuse(content)
                if isinstance(inner, (dict, list, tuple)):
                    waiting.append(inner)
        else:
            waiting += [inner for inner in value if isinstance(inner, (dict, list, tuple))]


def _refuse(content: dict[str, Any]) -> None:
    """Name the first thing in ``content`` that can't go, where there is one.

    Raises:
        TypeError: there is.
    """
    waiting: list[tuple[str, Any, int]] = [("content", content, 0)]
    while waiting:
        where, value, depth = waiting.pop()
        if depth > 2000:  # more than msgpack takes: it is this that it refused
            return
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(
                        f"{where} has the key {key!r:.50}, which is {type(key).__name__}: keys are str in what "
                        "travels between processes"
                    )
            # The first one is looked at first.
            waiting += reversed([(f"{where}[{key!r:.50}]", each, depth + 1) for key, each in value.items()])
        elif isinstance(value, (list, tuple)):
            waiting += reversed([(f"{where}[{index}]", each, depth + 1) for index, each in enumerate(value)])
        else:
            try:
                msgpack.packb(value, default=_extension, unicode_errors="surrogatepass")
            except (TypeError, ValueError, OverflowError):
                raise TypeError(
                    f"{where} is {value!r:.100}, of type {type(value).__name__}: what travels between processes "
                    f"is plain data ({_PLAIN})"
                ) from None

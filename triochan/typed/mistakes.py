"""What does not fit an annotation, and telling it: paths and plain words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cattrs.errors import (
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)

from ..content import encode_json
from ..exceptions import TriochanError

MAX_DETAILS = 20
"""Mistakes that are told of one content; a client that sends more of them knows enough."""
_LONGEST = 200
"""Characters of a path, and of what is said of it."""
_SAID_LENGTH = 40


class Misfit(TriochanError, ValueError):
    """A value that its annotation does not allow; ``path`` leads on from where it was raised."""

    def __init__(self, what: str, path: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.path = path


class Within(Exception):
    """What is wrong lies further in."""

    def __init__(self, path: str, error: Exception) -> None:
        super().__init__(path, error)
        self.path = path
        self.error = error


def said(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "an array"
    try:
        text = encode_json(value)
    except (TypeError, ValueError, OverflowError):
        text = type(value).__name__
    return text if len(text) <= _SAID_LENGTH else text[: _SAID_LENGTH - 1] + "…"


def misfit(expected: str, value: object) -> Misfit:
    return Misfit(f"{expected} is expected, not {said(value)}")


def one_of(values: Iterable[object]) -> str:
    return "one of " + ", ".join(said(value) for value in values)


def explain(error: Exception) -> list[str]:
    """What a structure hook's exception says, a line for each mistake: ``$.items[2].name: a string is expected, …``."""
    details: list[str] = []
    for path, what in _mistakes(error, "$"):
        if len(details) == MAX_DETAILS:
            details.append("… and more")
            break
        details.append(f"{_short(path)}: {_short(what)}")
    return details


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 50]}…{text[-49:]}"


def _mistakes(error: Exception, path: str) -> Iterator[tuple[str, str]]:
    # With a stack of its own: the errors are nested as deep as the content.
    waiting: list[tuple[str, Exception]] = [(path, error)]
    while waiting:
        path, error = waiting.pop()
        if isinstance(error, (ClassValidationError, IterableValidationError)):
            inner: list[tuple[str, Exception]] = []
            noted, others = error.group_exceptions()
            for each, note in noted:
                step = f"[{note.index}]" if isinstance(note, IterableValidationNote) else f".{note.name}"
                inner.append((path + step, Misfit("missing") if isinstance(each, KeyError) else each))
            inner.extend((path, each) for each in others)
            waiting.extend(reversed(inner))
        elif isinstance(error, Within):
            waiting.append((path + error.path, error.error))
        else:
            yield path + (error.path if isinstance(error, Misfit) else ""), _what(error)


def _what(error: Exception) -> str:
    if isinstance(error, Misfit):
        return error.what
    if isinstance(error, ForbiddenExtraKeysError):
        names = sorted(error.extra_fields)
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f"unknown keys: {', '.join(said(name) for name in names[:5])}{more}"
    if isinstance(error, RecursionError):
        return "too deep"
    if isinstance(error, (ValueError, TypeError)) and error.args and isinstance(error.args[0], str):
        return error.args[0]  # a validator's words; attrs puts the attribute and the value behind them
    return f"not valid ({type(error).__name__})"

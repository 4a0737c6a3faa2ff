"""Contents that wait: as bytes, whose size is known, and out of which each receiver gets objects of its own.

A value that JSON made may take 25 times the memory of its text, and a copy of it, object by object, stops the loop for
as long. So what waits is pickled. These pickles are made and read in one process and are never sent; what a pickle
copies, and what it can't, is what :func:`copy.deepcopy` copies and can't, for both go by the same protocol.
"""

from __future__ import annotations

import copy
import io
import pickle
import types
from typing import Any

import attrs

from ..content import LARGE, without_collector
from ..exceptions import InvalidContent

_AS_THEY_ARE = (type, types.FunctionType, types.BuiltinFunctionType)
"""What has no copy, and might have no name by which a pickle could find it again."""


def _kept(index: int) -> Any:
    """In a pickle, the place of a value that stands beside it."""
    raise NotImplementedError("a pickle of a content that waits is read by Waiting.content alone")


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.kept: list[Any] = []

    def reducer_override(self, value: Any) -> Any:
        """Not asked about the values that JSON has, so these cost no call."""
        if value is _kept:
            return NotImplemented
        if isinstance(value, _AS_THEY_ARE):
            self.kept.append(value)
        elif hasattr(type(value), "__deepcopy__"):
            self.kept.append(copy.deepcopy(value))
        else:
            return NotImplemented
        return _kept, (len(self.kept) - 1,)


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, kept: tuple[Any, ...]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._kept = kept

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, _kept.__name__):
            return self._take
        return super().find_class(module, name)

    def _take(self, index: int) -> Any:
        return copy.deepcopy(self._kept[index])


@attrs.frozen
class Waiting:
    """A content that waits.

    Attributes:
        pickled: all that may have come from a client.
        kept: what stands beside that: classes, functions, and values with a ``__deepcopy__`` of their own.
        source: the reply channel that it names: which connection it is from; None: none.
    """

    pickled: bytes
    kept: tuple[Any, ...] = ()
    source: str | None = None

    @classmethod
    def of(cls, content: dict[str, Any]) -> Waiting:
        """``content`` as it is now; what its owner does to it afterwards does not matter.

        Raises:
            InvalidContent: it is nested too deeply, some hundred levels.
            TypeError: something in it can't be copied, such as a lock or an open file.
        """
        file = io.BytesIO()
        pickler = _Pickler(file)
        try:
            pickler.dump(content)
        except RecursionError:
            raise InvalidContent(
                ["too deep to be sent to a channel: lists and objects within each other"]
            ) from None
        except pickle.PicklingError as error:
            raise TypeError(f"a content that can't be copied can't wait in a channel: {error}") from None
        source = content.get("reply_channel")
        return cls(file.getvalue(), tuple(pickler.kept), source if isinstance(source, str) else None)

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.pickled)

    def content(self) -> dict[str, Any]:
        """A content of the caller's own."""
        load = _Unpickler(self.pickled, self.kept).load
        content: dict[str, Any] = load() if self.size < LARGE else without_collector(load)
        return content

    def __str__(self) -> str:
        """For a line in a log: a content that is large is not made for that alone."""
        return f"{self.content()!r:.200}" if self.size <= 1000 else f"{self.size:,} bytes"

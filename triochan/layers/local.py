"""What the rooms above keep with one connection: it stands on the connection and ends with it."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


class Local:
    """Objects that belong to one connection, one of each class.

    A class is its own name: what one room keeps, no other room can take for its own.
    """

    __slots__ = ("_objects",)

    def __init__(self) -> None:
        self._objects: dict[type, Any] = {}

    def of(self, kind: type[T]) -> T:
        """The connection's object of the class ``kind``; made by ``kind()`` when it is first asked for."""
        found: T | None = self._objects.get(kind)
        if found is None:
            found = self._objects[kind] = kind()
        return found

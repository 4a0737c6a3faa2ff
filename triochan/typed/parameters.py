"""Type variables with a default, so that a generic class need not say what its parameters are."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import TypeVar
else:

    def TypeVar(name, *, default, covariant=False):
        """A type variable. Its default is for type checkers: before Python 3.13 typing has none."""
        return typing.TypeVar(name, covariant=covariant)


__all__ = ["TypeVar"]

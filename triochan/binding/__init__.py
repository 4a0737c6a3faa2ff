"""Data binding (Channels 1: "Data Binding"): changes of a model go out to groups, and come in from clients.

A model is a :class:`triochan.binding.collections.Collection` of attrs objects, or a mapped class of a
:class:`triochan.binding.sqlalchemy.Database`; the latter is imported only by programs that ask for it.
"""

from typing import TYPE_CHECKING

from ..porting import lookup
from .base import Binding
from .source import CREATE, DELETE, UPDATE, ChangeRefused

__all__ = ["CREATE", "DELETE", "UPDATE", "Binding", "ChangeRefused"]

if not TYPE_CHECKING:
    __getattr__ = lookup(__name__)

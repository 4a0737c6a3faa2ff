"""Class-based consumers (Channels 1: "Generic Consumers")."""

from typing import TYPE_CHECKING

from ..porting import lookup
from .base import BaseConsumer

__all__ = ["BaseConsumer"]

if not TYPE_CHECKING:
    __getattr__ = lookup(__name__)

"""Class-based consumers (Channels 1: "Generic Consumers")."""

from .base import BaseConsumer

__all__ = ["BaseConsumer"]

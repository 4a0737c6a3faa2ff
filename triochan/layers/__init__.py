"""Channel layers: how messages get from a sender to whoever is addressed by a channel's or a group's name."""

from typing import TYPE_CHECKING

from ..porting import lookup
from ..running import Local
from .base import Channel, ChannelLayer, Departed, Endpoint, Group, ReplyChannel, current_layer, running_layer
from .deliveries import DeadLetter, Delivery
from .memory import MemoryLayer
from .sharing import share_layer
from .urls import layer_from_url

__all__ = [
    "Channel",
    "ChannelLayer",
    "DeadLetter",
    "Delivery",
    "Departed",
    "Endpoint",
    "Group",
    "Local",
    "MemoryLayer",
    "ReplyChannel",
    "current_layer",
    "layer_from_url",
    "running_layer",
    "share_layer",
]

if not TYPE_CHECKING:
    __getattr__ = lookup(__name__)

"""Where Channels 1 has :class:`triochan.Channel` and :class:`triochan.Group`."""

from __future__ import annotations

from .layers import Channel, Group

__all__ = ["Channel", "Group"]

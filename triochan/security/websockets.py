"""Where Channels 1 has :func:`triochan.security.allowed_hosts_only`."""

from __future__ import annotations

from . import allowed_hosts_only, same_origin_only

__all__ = ["allowed_hosts_only", "same_origin_only"]

"""A channel layer by its URL, as ``--layer`` takes it."""

from __future__ import annotations

from ..exceptions import ImproperlyConfigured
from ..settings import Settings
from .base import ChannelLayer
from .memory import MemoryLayer

MEMORY = "memory://"


def layer_from_url(
    url: str, settings: Settings | None = None, *, start_timeout: float = 10.0, prefix: str = "triochan"
) -> ChannelLayer:
    """The layer that a URL names.

    Args:
        url: ``memory://``, or an engine's: ``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``, ``unix://``.
        settings: limits of its named channels.
        start_timeout: seconds that a start waits for the engine.
        prefix: stands before every key in the engine.

    Raises:
        ImproperlyConfigured: the URL names none, or what it needs is not installed.
    """
    if url == MEMORY:
        return MemoryLayer(settings)
    if "://" not in url:
        raise ImproperlyConfigured(
            f"a layer is named by a URL: {MEMORY}, redis://localhost:6379/0, unix:///run/valkey.sock; not {url!r}"
        )
    from .redis import RedisLayer  # its packages are an extra

    return RedisLayer(url, settings, prefix=prefix, start_timeout=start_timeout)

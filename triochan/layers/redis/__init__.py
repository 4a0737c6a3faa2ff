"""The layer through Redis or Valkey, by coredis: groups, channels and reply channels that many processes share."""

from ...exceptions import ImproperlyConfigured
from .engine import NOT_INSTALLED

try:
    from .layer import RedisLayer
except ModuleNotFoundError as error:
    if error.name != "msgpack":
        raise
    raise ImproperlyConfigured(NOT_INSTALLED) from None

__all__ = ["RedisLayer"]

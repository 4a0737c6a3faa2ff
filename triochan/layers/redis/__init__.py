"""The layer through Redis or Valkey, by coredis: groups, channels and reply channels that many processes share."""

from .layer import RedisLayer

__all__ = ["RedisLayer"]

"""Every limit and time-out of a server, with its default, unit and meaning.

The command line builds its options from this class (:mod:`triochan.cli`), so a field stands here and
nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar, get_args

import attrs

from .exceptions import ImproperlyConfigured

KIB = 1024
MIB = 1024 * KIB
CHANNEL_BYTES = 16 * MIB
"""Of ``channel_bytes``, also where no glob matches."""

Overflow = Literal["close", "drop_newest", "drop_oldest"]
T = TypeVar("T")


def _limit(default: Any, help: str, *, unit: str = "", least: float = 0, optional: bool = False) -> Any:
    """One numeric field: its help is the option's help, its lower bound is checked."""

    def check(instance: Settings, field: attrs.Attribute[Any], value: Any) -> None:
        if value is None and optional:
            return
        whole = str(field.type).startswith("int")
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            expected = "a whole number" if whole else "a number"
            raise ImproperlyConfigured(f"Settings.{field.name} takes {expected}, not {value!r}")
        if math.isnan(value) or value < least:
            raise ImproperlyConfigured(
                f"Settings.{field.name} must be at least {least:g}{' ' + unit if unit else ''}, not {value!r}"
            )

    return attrs.field(default=default, validator=check, metadata={"help": help, "unit": unit})


def _overflow(instance: Settings, field: attrs.Attribute[Any], value: Any) -> None:
    if value not in get_args(Overflow):
        raise ImproperlyConfigured(
            f"Settings.overflow must be one of {', '.join(get_args(Overflow))}, not {value!r}"
        )


def _switch(instance: Settings, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ImproperlyConfigured(f"Settings.{field.name} is True or False, not {value!r}")


@attrs.frozen(kw_only=True)
class Settings:
    """What bounds a server. Sizes are in bytes, times in seconds.

    Raises:
        ImproperlyConfigured: a value of the wrong type or below its lower bound.
    """

    # HTTP
    max_head_size: int = _limit(16 * KIB, "request head; larger is answered 431", unit="bytes", least=128)
    head_timeout: float = _limit(10.0, "time for a request head to arrive whole; then 408", unit="s")
    max_body_size: int = _limit(MIB, "request body; larger is answered 413", unit="bytes")
    body_timeout: float = _limit(30.0, "time for a request body to arrive whole; then 408", unit="s")
    keep_alive_timeout: float = _limit(15.0, "time an HTTP connection may idle between requests", unit="s")
    response_timeout: float = _limit(
        60.0, "time for a response to begin after its consumer has returned; then 503", unit="s"
    )
    max_connections: int | None = _limit(
        None, "sockets held at once; more are answered 503 (none: no limit)", least=1, optional=True
    )
    write_timeout: float = _limit(
        30.0, "time for a client to take something of a response; then it is lost", unit="s"
    )

    # WebSocket
    handshake_timeout: float = _limit(10.0, "time for connect to accept or refuse; then 503", unit="s")
    max_message_size: int = _limit(MIB, "inbound message; larger is closed with 1009", unit="bytes", least=1)
    close_timeout: float = _limit(5.0, "time for the closing handshake to complete", unit="s")
    compression: bool = attrs.field(
        default=False,
        validator=_switch,
        metadata={"help": "compress messages to clients that offer it (permessage-deflate)", "unit": ""},
    )
    compression_threshold: int = _limit(256, "message that is worth compressing", unit="bytes")
    ping_interval: float = _limit(20.0, "time between pings (0: no pings)", unit="s")
    ping_timeout: float = _limit(20.0, "time for a pong; then the connection is lost (1006)", unit="s")

    # Handlers
    inbox_limit: int = _limit(64, "messages of a connection that wait for a handler", least=1)
    inbox_bytes: int = _limit(
        MIB, "and their size together; while full, reading pauses", unit="bytes", least=1
    )
    stall_timeout: float = _limit(30.0, "time an inbox may stay full; then 1013", unit="s")
    max_overlap: int = _limit(8, "handlers of one connection that may run at once", least=1)
    handler_timeout: float | None = _limit(
        None, "time a handler may take; then 1011 (none: no limit)", unit="s", optional=True
    )
    block_warning: float = _limit(
        0.5,
        "time the event loop may be blocked by a handler until that is logged, with its stack (0: not)",
        unit="s",
    )
    disconnect_timeout: float = _limit(
        10.0, "time for running handlers to finish once the peer is gone, and again for disconnect", unit="s"
    )

    # Sending
    outbox_limit: int = _limit(MIB, "bytes that wait for a slow peer", unit="bytes", least=1)
    overflow: Overflow = attrs.field(
        default="close",
        validator=_overflow,
        metadata={
            "help": "what a group send does to a member over outbox_limit: close it with 1013, or drop a message",
            "unit": "",
        },
    )

    # Named channels
    channel_capacity: int | Mapping[str, int] = attrs.field(
        default=100, metadata={"help": "messages a named channel holds, or a mapping of globs", "unit": ""}
    )
    channel_bytes: int | Mapping[str, int] = attrs.field(
        default=CHANNEL_BYTES,
        metadata={"help": "and their size together; then it is full, or a mapping of globs", "unit": "bytes"},
    )
    channel_share: int | None = _limit(
        None,
        "messages of one connection that may wait in one named channel (none: as many as it holds)",
        least=1,
        optional=True,
    )
    channel_expiry: float | Mapping[str, float] = attrs.field(
        default=60.0,
        metadata={"help": "age at which a waiting message is dropped, or a mapping of globs", "unit": "s"},
    )
    channel_attempts: int = _limit(
        5, "times a durable channel's message is tried until it is a dead letter", least=1
    )
    channel_retry: float = _limit(
        1.0, "time until one that failed is tried again; doubled each time, up to 300 s", unit="s"
    )
    channel_lease: float = _limit(
        15.0, "time after which a worker that is heard of no more loses its messages", unit="s", least=0.1
    )
    channel_dead_letters: int = _limit(1000, "dead letters that a channel keeps, the latest", least=1)
    worker_tasks: int = _limit(
        1, "messages of one named channel handled at once (1 keeps their order)", least=1
    )

    # Shutdown
    drain_spread: float = _limit(1.0, "time over which sockets are closed with 1001 at shutdown", unit="s")
    shutdown_timeout: float = _limit(30.0, "hard deadline of a shutdown", unit="s")

    @channel_capacity.validator
    @channel_bytes.validator
    def _check_capacity(self, field: attrs.Attribute[Any], value: Any) -> None:
        _check_globs(field.name, value, int, 1)

    @channel_expiry.validator
    def _check_expiry(self, field: attrs.Attribute[Any], value: Any) -> None:
        _check_globs(field.name, value, (int, float), 0)


def _check_globs(name: str, value: Any, kind: Any, least: float) -> None:
    for each in value.values() if isinstance(value, Mapping) else [value]:
        if isinstance(each, bool) or not isinstance(each, kind) or not each >= least:
            raise ImproperlyConfigured(f"Settings.{name} takes numbers of at least {least:g}, not {each!r}")


def by_glob(setting: T | Mapping[str, T], name: str, default: T) -> T:
    """The value that ``setting`` gives to ``name``: itself, or that of the first glob that matches."""
    if not isinstance(setting, Mapping):
        return setting
    for pattern, value in setting.items():
        if fnmatchcase(name, pattern):
            return value
    return default

"""What is measured, against whom, and what must hold; the targets are the project's own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

SUBJECT = "triochan"
ITSELF = "itself"

SERVERS = {
    SUBJECT: "benchmarks.servers.triochan_subject",
    "starlette": "benchmarks.servers.starlette_peer",
    "websockets": "benchmarks.servers.websockets_peer",
    "channels": "benchmarks.servers.channels_peer",
    "trio-websocket": "benchmarks.servers.trio_websocket_peer",
    "picows": "benchmarks.servers.picows_peer",
}
"""The module to run for each server."""

PEERS = tuple(name for name in SERVERS if name != SUBJECT)

TITLES = {
    SUBJECT: "triochan",
    "starlette": "Starlette on uvicorn + uvloop",
    "websockets": "websockets + uvloop",
    "channels": "Channels 4 on uvicorn",
    "trio-websocket": "bare trio-websocket",
    "picows": "picows + uvloop",
    ITSELF: "itself",
}

Measure = Literal["messages", "deliveries", "connects", "latency", "memory"]

UNITS: dict[Measure, str] = {
    "messages": "messages/s",
    "deliveries": "deliveries/s",
    "connects": "connections/s",
    "latency": "µs a round trip",
    "memory": "KiB a connection",
}


@dataclass(frozen=True)
class Load:
    """What one server is put under."""

    path: str = "/echo"
    members: int = 64
    """Sockets that carry the load, or connectors at work at the same time."""
    size: int = 128
    """Bytes in a message."""
    in_flight: int = 1
    """Unanswered messages kept on their way: of each socket, or of the one sender to a group."""
    crowd: int = 0
    """Sockets that are only open, besides."""
    tls: bool = False

    def payload(self) -> str:
        """A message of `size` ASCII bytes; for `/json` a JSON object that takes as much."""
        if self.path != "/json":
            return ("The quick brown fox jumps over the lazy dog. " * (self.size // 45 + 1))[: self.size]
        content = {"kind": "message", "user": 4711, "room": "lobby", "urgent": False, "text": ""}
        room = self.size - len(json.dumps(content, separators=(",", ":")))
        return json.dumps(content | {"text": "x" * room}, separators=(",", ":"))


@dataclass(frozen=True)
class Scenario:
    key: str
    title: str
    measure: Measure
    load: Load
    targets: dict[str, float] = field(default_factory=dict)
    """Peer → the ratio triochan / peer that must hold: at least, or at most where lower is better."""
    others: tuple[str, ...] = ()
    """Peers that are measured for comparison, without a target."""
    itself: Load | None = None
    """Another load for triochan itself to be compared with, in the column `itself`."""
    itself_titles: tuple[str, str] | None = None
    """Names of both loads, `load` first, for the plot."""

    @property
    def lower_is_better(self) -> bool:
        return self.measure in ("latency", "memory")

    @property
    def unit(self) -> str:
        return UNITS[self.measure]

    @property
    def opponents(self) -> tuple[str, ...]:
        return tuple(name for name in (*PEERS, ITSELF) if name in self.targets or name in self.others)

    def holds(self, opponent: str, ratio: float) -> bool:
        target = self.targets.get(opponent)
        if target is None:
            return True
        # The target has one or two digits, so the ratio is held against it as it is shown: rounded to two.
        shown = round(ratio, 2)
        return shown <= target if self.lower_is_better else shown >= target


# The sender of a group keeps eight messages on their way: the server always finds the next one waiting.
_GROUP = Load("/group", members=500, in_flight=8)

SCENARIOS = (
    Scenario(
        "echo",
        "echo, 64 sockets, 128 B, one in flight",
        "messages",
        Load(),
        {"starlette": 1.2, "websockets": 1.2, "channels": 4.5, "trio-websocket": 3},
        others=("picows",),
    ),
    Scenario(
        "echo-16",
        "echo, 64 sockets, 128 B, 16 in flight",
        "messages",
        Load(in_flight=16),
        {"starlette": 1.5, "websockets": 1.5, "channels": 6, "trio-websocket": 3},
        others=("picows",),
    ),
    Scenario(
        "echo-16k",
        "echo, 64 sockets, 16 KiB messages",
        "messages",
        Load(size=16384),
        {"starlette": 1.0, "websockets": 0.9, "channels": 2, "trio-websocket": 2},
        others=("picows",),
    ),
    Scenario(
        "group",
        "group of 500, 128 B",
        "deliveries",
        _GROUP,
        {"starlette": 1.7, "websockets": 1.3, "channels": 25, "trio-websocket": 4, "picows": 0.9},
    ),
    Scenario(
        "json",
        "JSON group send, 500 members",
        "deliveries",
        Load("/json", members=500, in_flight=8),
        {"starlette": 1.7, "websockets": 1.3, "channels": 25},
        others=("picows",),
    ),
    Scenario(
        "connect",
        "connect, first message, close",
        "connects",
        Load(members=32),
        {"starlette": 0.7, "websockets": 0.6, "channels": 1.3, "trio-websocket": 1.0},
        others=("picows",),
    ),
    Scenario(
        "memory",
        "KiB per idle connection (lower is better)",
        "memory",
        Load(members=1, crowd=2000),
        {"starlette": 0.9, "channels": 0.8, "trio-websocket": 1.1},
        others=("websockets", "picows"),
    ),
    Scenario(
        "tls",
        "echo over TLS, 64 sockets, 128 B, one in flight",
        "messages",
        Load(tls=True),
        {"starlette": 1.0},
    ),
    Scenario(
        "group-crowd",
        "group of 500 among 5,000 connections / among 500",
        "deliveries",
        Load("/group", members=500, in_flight=8, crowd=4500),
        {ITSELF: 0.9},
        itself=_GROUP,
        itself_titles=("among 5,000", "among 500"),
    ),
    Scenario(
        "group-linear",
        "deliveries in a group of 2,000 / of 500",
        "deliveries",
        Load("/group", members=2000, in_flight=8),
        # Linear means a ratio near 1. It is without a target: sockets that fall out of the processor's caches
        # cost every server a part of it.
        others=(ITSELF,),
        itself=_GROUP,
        itself_titles=("group of 2,000", "group of 500"),
    ),
    Scenario(
        "idle",
        "round trip beside 9,000 idle connections / alone (lower is better)",
        "latency",
        Load(members=1, crowd=9000),
        {ITSELF: 2.0},
        itself=Load(members=1),
        itself_titles=("9,000 idle", "alone"),
    ),
)

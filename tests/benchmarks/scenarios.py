"""What is measured, against whom, and what must hold; the targets are the project's own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

SUBJECT = "triochan"
ITSELF = "itself"
BEFORE = "before"
"""The subject's server once more, on triochan as it was at an earlier commit."""

SERVERS = {
    SUBJECT: "benchmarks.servers.triochan_subject",
    "starlette": "benchmarks.servers.starlette_peer",
    "websockets": "benchmarks.servers.websockets_peer",
    "channels": "benchmarks.servers.channels_peer",
    "trio-websocket": "benchmarks.servers.trio_websocket_peer",
    "picows": "benchmarks.servers.picows_peer",
    "aiohttp": "benchmarks.servers.aiohttp_peer",
    "socketify": "benchmarks.servers.socketify_peer",
}
"""The module to run for each server."""

ACROSS = {
    SUBJECT: "benchmarks.servers.triochan_across",
    "websockets": "benchmarks.servers.websockets_redis_peer",
    "channels": "benchmarks.servers.channels_redis_peer",
    "picows": "benchmarks.servers.picows_redis_peer",
}
"""The same servers with an engine between several processes of each; the others have nothing to offer for that."""

PEERS = tuple(name for name in SERVERS if name != SUBJECT)

TITLES = {
    SUBJECT: "triochan",
    "starlette": "Starlette on uvicorn + uvloop",
    "websockets": "websockets + uvloop",
    "channels": "Channels 4 on uvicorn",
    "trio-websocket": "bare trio-websocket",
    "picows": "picows + uvloop",
    "aiohttp": "aiohttp + uvloop",
    "socketify": "socketify (uWebSockets)",
    ITSELF: "itself",
    BEFORE: "the commit before",
}

TITLES_ACROSS = TITLES | {
    SUBJECT: "triochan, RedisLayer",
    "websockets": "websockets + redis-py",
    "channels": "Channels 4 + channels_redis",
    "picows": "picows + redis-py",
}
"""What they are there."""

OPPONENTS = (*PEERS, BEFORE, ITSELF)
"""Whoever the subject can be measured beside, in the order of the tables' columns."""

Measure = Literal[
    "messages",
    "deliveries",
    "compressed",
    "connects",
    "storm",
    "requests",
    "latency",
    "memory",
    "paced",
    "jobs",
    "bystander",
]

UNITS: dict[Measure, str] = {
    "messages": "messages/s",
    "deliveries": "deliveries/s",
    "compressed": "deliveries/s",
    "connects": "connections/s",
    "storm": "ms until all are members again",
    "requests": "requests/s",
    "latency": "µs a round trip",
    "memory": "KiB a connection",
    "paced": "ms until a delivery, median",
    "jobs": "jobs/s",
    "bystander": "µs of a process without members, a message",
}

WORK: dict[Measure, str] = {
    "messages": "message",
    "deliveries": "delivery",
    "compressed": "delivery",
    "connects": "connection",
    "storm": "connection",
    "requests": "request",
    "latency": "round trip",
    "paced": "delivery",
    "jobs": "job",
}
"""One unit of what the load generator counts; memory and bystanders have none."""

ANSWER = {"user": 4711, "name": "Ada", "room": "lobby", "online": True}
"""The content of the servers' JSON answer to a GET."""

JOB_NUMBER = 7
"""Characters of a job's number, with which it begins, and by which it is reported as done."""


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
    pings: bool = False
    """Ask those servers for keep-alive pings that send none unless told to."""
    processes: int = 1
    """Of the server. With several, an engine is between them: the first takes what is sent and has no members, the
    others share the members, or the jobs; of bystanders the last has one member of another group instead."""
    durable: bool = False
    """Jobs that outlive their worker, where the server has such."""

    def payload(self) -> str:
        """A message of `size` ASCII bytes; for `/json` a JSON object that takes as much.

        For `/answer` it is what comes back from a GET, of its own size. What is sent to `/deflate` varies and
        comes from `feed`; of this payload counts the size alone.
        """
        if self.path == "/answer":
            return json.dumps(ANSWER)
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
    wire_targets: dict[str, float] = field(default_factory=dict)
    """Peer → the most that the bytes of a delivery on the wire may be, as a ratio triochan / peer."""

    @property
    def lower_is_better(self) -> bool:
        return self.measure in ("latency", "memory", "storm", "paced", "bystander")

    @property
    def across(self) -> bool:
        """Each contestant is several processes."""
        return self.load.processes > 1

    @property
    def servers(self) -> dict[str, str]:
        """The module to run for each server that takes part in such a scenario."""
        return ACROSS if self.across else SERVERS

    @property
    def titles(self) -> dict[str, str]:
        return TITLES_ACROSS if self.across else TITLES

    @property
    def unit(self) -> str:
        return UNITS[self.measure]

    @property
    def opponents(self) -> tuple[str, ...]:
        """Those that the scenario names, and always the commit before, where one was asked for."""
        named = {*self.targets, *self.others, BEFORE}
        return tuple(name for name in OPPONENTS if name in named)

    def holds(self, opponent: str, ratio: float) -> bool:
        target = self.targets.get(opponent)
        if target is None:
            return True
        # The target has one or two digits, so the ratio is held against it as it is shown: rounded to two.
        shown = round(ratio, 2)
        return shown <= target if self.lower_is_better else shown >= target


NOT_BELOW = 1.0
"""Beside the commit before: no slower than that."""

# With eight messages on their way the server always finds the next one waiting.
_BUSY_GROUP = Load("/group", members=500, in_flight=8)
_SPREAD_TARGETS = {"websockets": 1.2, "picows": 1.0, "channels": 15}

SCENARIOS = (
    Scenario(
        "echo",
        "echo, 64 sockets, 128 B, one in flight",
        "messages",
        Load(),
        {
            "starlette": 2.0,
            "aiohttp": 1.1,
            "picows": 0.85,
            "websockets": 1.2,
            "channels": 4.5,
            "trio-websocket": 3,
        },
        others=("socketify",),
    ),
    Scenario(
        "echo-16",
        "echo, 64 sockets, 128 B, 16 in flight",
        "messages",
        Load(in_flight=16),
        {"starlette": 2.5, "websockets": 1.5, "channels": 6, "trio-websocket": 3, BEFORE: NOT_BELOW},
        others=("aiohttp", "picows", "socketify"),
    ),
    Scenario(
        "echo-16k",
        "echo, 64 sockets, 16 KiB messages",
        "messages",
        Load(size=16384),
        {"starlette": 1.2, "websockets": 0.9, "channels": 2, "trio-websocket": 2, BEFORE: NOT_BELOW},
        others=("aiohttp", "picows", "socketify"),
    ),
    Scenario(
        "checkpoint",
        "echo, 64 sockets, the handler waits for the next turn of the loop",
        "messages",
        Load("/checkpoint"),
        {BEFORE: NOT_BELOW},
        others=("starlette", "websockets", "aiohttp"),
    ),
    Scenario(
        "sleep",
        "echo, 1,000 sockets, the handler sleeps for 10 ms",
        "messages",
        # With one message a socket, 1,000 sockets ask for 100,000 a second at most: more than a server has.
        Load("/sleep", members=1000),
        {BEFORE: NOT_BELOW},
        others=("starlette", "websockets", "aiohttp"),
    ),
    Scenario(
        "group",
        "group of 500, 128 B, one send at a time",
        "deliveries",
        Load("/group", members=500),
        {
            "starlette": 2.2,
            "picows": 1.0,
            "aiohttp": 1.0,
            "socketify": 1.0,
            "websockets": 1.3,
            "channels": 25,
            "trio-websocket": 4,
            BEFORE: NOT_BELOW,
        },
    ),
    Scenario(
        "group-16",
        "group of 500, 128 B, 16 sends in flight",
        "deliveries",
        Load("/group", members=500, in_flight=16),
        {"socketify": 0.6, BEFORE: 4.0},
        others=("starlette", "websockets", "aiohttp", "picows"),
    ),
    Scenario(
        "json",
        "JSON group send, 500 members, 8 in flight",
        "deliveries",
        Load("/json", members=500, in_flight=8),
        {"starlette": 1.7, "websockets": 1.3, "channels": 25},
        others=("picows", "aiohttp"),
    ),
    Scenario(
        "deflate",
        "group of 500, 2 KiB of JSON, compressed, 8 in flight",
        "compressed",
        Load("/deflate", members=500, size=2048, in_flight=8),
        {"websockets": 10},
        others=("aiohttp", "socketify"),
        wire_targets={"websockets": 1.1},
    ),
    Scenario(
        "connect",
        "connect, first message, close",
        "connects",
        Load(members=32),
        {"starlette": 1.2, "websockets": 1.1, "aiohttp": 0.9, "channels": 1.3, "trio-websocket": 1.0},
        others=("picows", "socketify"),
    ),
    Scenario(
        "storm",
        "2,000 clients reconnect at once, into one group (lower is better)",
        "storm",
        Load("/group", members=2000),
        {"starlette": 0.8},
        others=("websockets", "aiohttp", "picows"),
    ),
    Scenario(
        "http",
        "GET, small JSON answer, 32 keep-alive clients",
        "requests",
        Load("/answer", members=32),
        {"starlette": 1.2},
        others=("aiohttp", "socketify"),
    ),
    Scenario(
        "memory",
        "KiB per idle connection, pings on (lower is better)",
        "memory",
        Load(members=1, crowd=2000, pings=True),
        {"websockets": 0.7, "starlette": 0.9, "channels": 0.8, "trio-websocket": 1.1},
        others=("picows", "aiohttp", "socketify"),
    ),
    Scenario(
        "tls",
        "echo over TLS, 64 sockets, 128 B, one in flight",
        "messages",
        Load(tls=True),
        {"starlette": 2.0},
        others=("aiohttp", "picows"),
    ),
    Scenario(
        "group-crowd",
        "group of 500 among 5,000 connections / among 500",
        "deliveries",
        Load("/group", members=500, in_flight=8, crowd=4500),
        {ITSELF: 0.9},
        itself=_BUSY_GROUP,
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
        itself=_BUSY_GROUP,
        itself_titles=("group of 2,000", "group of 500"),
    ),
    Scenario(
        "idle",
        "round trip beside 10,000 idle connections / alone (lower is better)",
        "latency",
        Load(members=1, crowd=10000),
        {ITSELF: 1.2},
        itself=Load(members=1),
        itself_titles=("10,000 idle", "alone"),
    ),
    Scenario(
        "across",
        "across processes: group of 500 in two, a third sends, one at a time",
        "deliveries",
        Load("/group", members=500, processes=3),
        _SPREAD_TARGETS,
    ),
    Scenario(
        "across-8",
        "across processes: group of 500 in two, a third sends, 8 in flight",
        "deliveries",
        Load("/group", members=500, processes=3, in_flight=8),
        _SPREAD_TARGETS,
    ),
    Scenario(
        "across-paced",
        "across processes: until a delivery, 5 messages a second to 500 (lower is better)",
        "paced",
        Load("/group", members=500, processes=3),
        {"websockets": 0.99},
        others=("picows", "channels"),
    ),
    Scenario(
        "across-idle",
        "across processes: a process without members, while groups are busy (lower is better)",
        "bystander",
        # Few members make many messages.
        Load("/group", members=20, processes=4, in_flight=8),
        {"websockets": 0.1},
        others=("picows",),
    ),
    Scenario(
        "jobs",
        "across processes: jobs through a named channel to two workers, at most once",
        "jobs",
        Load("/job", members=32, processes=3),
        {"channels": 3},
    ),
    Scenario(
        "jobs-durable",
        "across processes: jobs that outlive a worker / at most once",
        "jobs",
        Load("/job", members=32, processes=3, durable=True),
        # Channels' own are at most once.
        {"channels": 3},
        others=(ITSELF,),
        itself=Load("/job", members=32, processes=3),
        itself_titles=("durable", "at most once"),
    ),
)

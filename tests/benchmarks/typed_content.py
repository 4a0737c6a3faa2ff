"""What typed content costs a JSON consumer, in microseconds a message. See --help."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Literal, TypedDict

import attrs

from triochan import Application, Channel, Message
from triochan.content import encode_json
from triochan.generic.websockets import JsonWebsocketConsumer

DESCRIPTION = """\
Handles the same JSON messages with an untyped consumer and with typed ones, and prints the medians in
microseconds a message, and each one's ratio to the untyped consumer.

A message here is a call of the consumer's own: the text is decoded, made into an object where the consumer is
typed, and handed to receive(). "echo" also sends it back: the object is made into plain values and encoded. Sockets,
frames and Trio's scheduler have no part in it, so the ratios are the worst case: beside a whole message, by
tests/benchmarks/run.py, the difference is a smaller part.

The consumers take turns, in short rounds, so that a machine that is busy with something else changes the figures
but hardly the ratios. Needs nothing but triochan itself.
"""
SMALL = {"type": "say", "text": "Hello, world", "room": "kitchen"}
LARGE = {
    "type": "order",
    "number": 7,
    "lines": [{"name": f"article {number}", "price": 1.5, "count": number} for number in range(20)],
}


@attrs.frozen
class Say:
    type: Literal["say"]
    text: str
    room: str


@dataclasses.dataclass
class SayData:
    type: Literal["say"]
    text: str
    room: str


class SayDict(TypedDict):
    type: Literal["say"]
    text: str
    room: str


@attrs.frozen
class Line:
    name: str
    price: float
    count: int


@attrs.frozen
class Order:
    type: Literal["order"]
    number: int
    lines: list[Line]


class Reply:
    """A reply channel that goes nowhere."""

    name = "websocket.send.x!1"

    async def send(self, content: dict[str, Any], /) -> None:
        pass


def consumer(annotation: Any, echo: bool) -> type[JsonWebsocketConsumer]:
    async def receive(self: Any, content: Any, **kwargs: Any) -> None:
        if echo:
            await self.send(content)

    if annotation is not None:
        receive.__annotations__["content"] = annotation
    return type("Measured", (JsonWebsocketConsumer,), {"receive": receive})


def call(measured: type[JsonWebsocketConsumer], content: Any) -> Callable[[int], float]:
    """What handles ``content`` so many times, and gives the seconds that it took."""
    application = Application([measured.as_route()])
    for each in measured.content_types():
        each.prepare(application.converter)
    message = Message(
        {"path": "/", "order": 1, "text": encode_json(content)}, Channel("websocket.receive"), Reply()
    )
    message.application = application

    def run(times: int) -> float:
        begin = measured.begin
        started = time.perf_counter()
        for _ in range(times):
            try:
                begin(message, {}).send(None)
            except StopIteration:
                pass
        return time.perf_counter() - started

    return run


def measure(rounds: int, times: int) -> None:
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        (
            "small: three strings",
            SMALL,
            {
                "untyped": None,
                "attrs": Say,
                "dataclass": SayData,
                "TypedDict": SayDict,
                "tagged union": Say | Order,
            },
        ),
        (
            "large: a list of 20 objects",
            LARGE,
            {"untyped": None, "attrs": Order, "tagged union": Say | Order},
        ),
    ]
    for title, content, annotated in cases:
        for echo in (False, True):
            print(f"{title}, {len(encode_json(content))} bytes, {'echoed' if echo else 'received'}")
            runs = {name: call(consumer(annotation, echo), content) for name, annotation in annotated.items()}
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(rounds):
                for name, run in runs.items():
                    seconds[name].append(run(times) / times)
            for name, measured in seconds.items():
                ratio = statistics.median(a / b for a, b in zip(measured, seconds["untyped"], strict=True))
                print(f"  {name:<14}{statistics.median(measured) * 1e6:8.2f} µs   x {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="typed_content.py", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=30, help="rounds, of which the median counts (default 30)"
    )
    parser.add_argument(
        "--times", type=int, default=2000, help="messages a round and consumer (default 2000)"
    )
    given = parser.parse_args()
    if given.rounds < 1 or given.times < 1:
        parser.error("--rounds and --times are at least 1")
    measure(given.rounds, given.times)


if __name__ == "__main__":
    sys.exit(main())

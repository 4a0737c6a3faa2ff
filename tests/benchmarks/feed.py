"""Messages of a live feed, for the compressed group: JSON that varies from message to message.

Names, places and words come back as they do in such feeds; numbers, times and identifiers do not. The
messages depend on `size` and `count` alone, so every run and every server sees the same ones.
"""

from __future__ import annotations

import json
from random import Random

_STATUS = ("under way", "at anchor", "moored", "restricted", "fishing")
_FIRST = ("Aurora", "Baltic", "Nordic", "Stella", "Atlantic", "Maria", "Ocean", "Santa", "Emma", "Polar")
_LAST = ("Pioneer", "Star", "Carrier", "Clara", "Spirit", "Trader", "Express", "Maersk", "Breeze", "Queen")
_PORTS = ("DEHAM", "NLRTM", "BEANR", "SEGOT", "NOOSL", "GBFXT", "PLGDN", "FIHEL", "DKAAR", "EETLL")
_WORDS = "pilot northern buoy noon berth shore power repairs heavy weather two tugs wait lock traffic canal"


def messages(count: int, size: int) -> list[str]:
    """`count` JSON objects of `size` ASCII characters each, from about 400 up."""
    random = Random(2048)
    return [_message(random, number, size) for number in range(count)]


def _message(random: Random, number: int, size: int) -> str:
    content: dict[str, object] = {
        "type": "positions",
        "sequence": 90210 + number,
        "sent": f"2026-03-14T09:{number // 60 % 60:02}:{number % 60:02}.{random.randrange(1000):03}Z",
        "remark": "",
        "vessels": (vessels := []),
    }
    while True:
        vessels.append(_vessel(random))
        if len(_encoded(content)) > size:
            vessels.pop()
            break
    words = ""
    room = size - len(_encoded(content))
    while len(words) < room:
        words += random.choice(_WORDS.split()) + " "
    content["remark"] = words[:room]
    return _encoded(content)


def _vessel(random: Random) -> dict[str, object]:
    return {
        "mmsi": random.randrange(200_000_000, 775_999_999),
        "name": f"{random.choice(_FIRST)} {random.choice(_LAST)}",
        "latitude": round(random.uniform(51, 66), 5),
        "longitude": round(random.uniform(-4, 30), 5),
        "speed": round(random.uniform(0, 24), 1),
        "course": random.randrange(360),
        "status": random.choice(_STATUS),
        "destination": random.choice(_PORTS),
    }


def _encoded(content: dict[str, object]) -> str:
    return json.dumps(content, separators=(",", ":"))

"""``triochan dead-letters`` lists what durable channels' consumers could not handle, shows it, sends it again."""

from __future__ import annotations

import argparse
import json
import math
import os
import pprint
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
import trio

from .exceptions import ChannelFull, ImproperlyConfigured, LayerUnavailable
from .layers import DeadLetter, MemoryLayer, layer_from_url
from .layers.base import ChannelLayer
from .layers.urls import MEMORY
from .message import check_name
from .near_misses import closest
from .settings import Settings
from .terminal import is_terminal

VARIABLE = "TRIOCHAN_LAYER"
ACTIONS = ("list", "show", "send-again", "delete")
DESCRIPTION = (
    "Lists the messages that were tried as often as --channel-attempts says and failed each time, the latest last;\n"
    "shows one, sends them to their channels again, deletes them."
)
EPILOG = """\
examples:
  triochan dead-letters --layer redis://localhost:6379/0             all of them, a line each
  triochan dead-letters --layer redis://localhost:6379/0 jobs        those of one channel; "list show" where it is
                                                                     named as one of the words here
  triochan dead-letters --layer redis://localhost:6379/0 show jobs/1764077000123-0
  triochan dead-letters --layer redis://localhost:6379/0 send-again jobs/1764077000123-0
  triochan dead-letters --layer redis://localhost:6379/0 delete --all jobs

exit status: 0; 1 where the engine does not answer or there is no such dead letter; 2 where the command is wrong.
"""
_ENOUGH = Settings(channel_capacity=2**31, channel_bytes=2**50)
"""Who sends again by hand has looked: a full channel is no obstacle."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[list] [CHANNEL] | show ID | send-again ID... | delete ID...",
        help="what to do; ID is what the list has in front",
    )
    parser.add_argument(
        "--layer", metavar="URL", help=f"the engine that the workers use (default: what {VARIABLE} says)"
    )
    parser.add_argument(
        "--layer-timeout",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="wait so long for an engine that is not there (default: 10)",
    )
    parser.add_argument(
        "--layer-prefix",
        default="triochan",
        metavar="TEXT",
        help="what its keys begin with (default: triochan)",
    )
    parser.add_argument(
        "--all", action="store_true", help="send again or delete all, or all of the channel that is named"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("-h", "--help", action="help", help="print this and exit")


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 is expected, not {text!r}")
    return number


def main(parser: argparse.ArgumentParser, arguments: Sequence[str], say: Callable[..., None]) -> int:
    """Run the command; its exit status.

    Args:
        parser: with :func:`add_arguments`; told of what is wrong.
        arguments: behind the command's word.
        say: prints lines.
    """
    given = parser.parse_args(arguments)
    try:
        order = _Order.of(given)
        layer = _layer(given)
    except (ValueError, ImproperlyConfigured) as error:
        parser.error(str(error))
    try:
        lines, status = trio.run(_run, layer, order)
    except LayerUnavailable as error:
        print(f"triochan: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if lines:
        say(*lines)
    return status


def _layer(given: argparse.Namespace) -> ChannelLayer:
    url = given.layer or os.environ.get(VARIABLE)
    if not url:
        raise ValueError(
            f"which engine? --layer redis://localhost:6379/0, or the variable {VARIABLE}: the one that the workers use"
        )
    if url == MEMORY:
        raise ValueError(
            f"what is in {MEMORY} is in the server's own process, and is not seen from here; dead letters that outlive "
            "it need --layer redis://… for the server as well"
        )
    layer = layer_from_url(url, _ENOUGH, start_timeout=given.layer_timeout, prefix=given.layer_prefix)
    assert not isinstance(layer, MemoryLayer)
    return layer


@attrs.frozen
class _Order:
    """What is to be done.

    Attributes:
        action: one of :data:`ACTIONS`.
        channel: of what channel; None: of all.
        ids: with what; empty: with all.
    """

    action: str
    channel: str | None
    ids: tuple[str, ...]
    as_json: bool

    @classmethod
    def of(cls, given: argparse.Namespace) -> _Order:
        words = list(given.words)
        action = words.pop(0) if words and words[0] in ACTIONS else "list"
        if action == "list" or given.all:
            if action in ("list", "show") and given.all:
                raise ValueError(f"--all goes with send-again and delete; {action} has none")
            if len(words) > 1:
                meant = closest(words[0], ACTIONS, likeness=0.6)
                said = f"did you mean {meant}?" if meant else f"what may be done is {', '.join(ACTIONS)}"
                raise ValueError(f"one channel at a time, or none for all, not {' '.join(words)}; {said}")
            if words and "/" in words[0]:
                raise ValueError(
                    f"{words[0]!r} is a dead letter, not a channel: show {words[0]}"
                    if action == "list"
                    else f"{words[0]!r} is one dead letter: leave out --all, or name a channel"
                )
            channel = check_name("channel", words[0]) if words else None
            return cls(action, channel, (), given.json)
        if not words:
            ways = "" if action == "show" else ", or --all"
            raise ValueError(
                f"{action} what? It takes what the list has in front, such as jobs/1764077000123-0{ways}"
            )
        if action == "show" and len(words) > 1:
            raise ValueError("show takes one dead letter")
        return cls(action, None, tuple(words), given.json)


async def _run(layer: ChannelLayer, order: _Order) -> tuple[list[str], int]:
    async with layer.running():
        if order.action == "list":
            return _listed(await layer.dead_letters(order.channel), as_json=order.as_json), 0
        if order.action == "show":
            [id] = order.ids
            for letter in await layer.dead_letters(id.rpartition("/")[0]):
                if letter.id == id:
                    return _shown(letter, as_json=order.as_json), 0
            return _complain(id)
        return await _changed(layer, order)


async def _changed(layer: ChannelLayer, order: _Order) -> tuple[list[str], int]:
    ids = order.ids or [each.id for each in await layer.dead_letters(order.channel)]
    act, done = (
        (layer.send_again, "sent again")
        if order.action == "send-again"
        else (layer.delete_dead_letter, "deleted")
    )
    handled: list[str] = []
    status = 0
    for id in ids:
        try:
            await act(id)
        except (LookupError, ChannelFull) as error:
            print(f"triochan: error: {error}", file=sys.stderr)
            status = 1
        else:
            handled.append(id)
    if order.as_json:
        return [json.dumps({done.replace(" ", "_"): handled})], status
    return [f"{len(handled)} {done}"], status


def _complain(id: str) -> tuple[list[str], int]:
    print(f"triochan: error: there is no dead letter {id!r}", file=sys.stderr)
    return [], 1


def _listed(letters: Sequence[DeadLetter], *, as_json: bool) -> list[str]:
    if as_json:
        return [json.dumps([_as_json(each) for each in letters], indent=2)]
    if not letters:
        return ["no dead letters"]
    rows = [
        (each.id, _when(each), f"{each.attempts}x", printable(each.error), printable(repr(each.content)))
        for each in letters
    ]
    widths = [min(max(len(row[column]) for row in rows), 60) for column in range(4)]
    lines = [
        "  ".join([*(f"{text:{width}.{width}}" for text, width in zip(row, widths, strict=False)), row[4]])
        for row in rows
    ]
    most = shutil.get_terminal_size().columns if is_terminal(sys.stdout) or "COLUMNS" in os.environ else 240
    return [f"{line:.{most}}".rstrip() for line in lines]


def _shown(letter: DeadLetter, *, as_json: bool) -> list[str]:
    if as_json:
        return [json.dumps(_as_json(letter), indent=2)]
    return [
        f"id        {letter.id}",
        f"channel   {letter.channel}",
        f"failed    {_when(letter)}",
        f"attempts  {letter.attempts}",
        f"error     {printable(letter.error)}",
        "content",
        *(f"  {line}" for line in pprint.pformat(letter.content, width=100).splitlines()),
    ]


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    return {**attrs.asdict(letter, recurse=False), "content": _plain(letter.content), "failed": _when(letter)}


def _plain(value: Any) -> Any:
    """``value`` as JSON has it; what JSON does not have, as Python writes it."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _when(letter: DeadLetter) -> str:
    return f"{datetime.fromtimestamp(int(letter.failed), UTC):%Y-%m-%dT%H:%M:%SZ}"


def printable(text: str) -> str:
    """``text`` in a line, without what would do something to a terminal: clients may have written it."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)

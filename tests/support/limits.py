"""What a client may cost at most, and which test holds it: ``docs/limits.md``.

    python tests/support/limits.py          write the page

The defaults are those of :class:`triochan.Settings` and of the code, and the kinds of input whose processor time is
measured are those of ``tests/chaos/costs.py``; a test fails where the page is stale, or names a test that there is not.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from chaos import costs  # noqa: E402 - where it is, is said above

from triochan import Settings  # noqa: E402
from triochan.content import DECIMAL_DIGITS  # noqa: E402
from triochan.http.requests import MAX_FIELDS, MAX_FILES  # noqa: E402
from triochan.http1.parser import MAX_CHUNK_LINE  # noqa: E402
from triochan.layers.tokens import MAX_BUCKETS  # noqa: E402
from triochan.sessions import MemorySessionStore  # noqa: E402
from triochan.typed.mistakes import MAX_DETAILS  # noqa: E402

PAGE = ROOT / "docs" / "limits.md"
KIB, MIB = 1024, 1024 * 1024


class Row(NamedTuple):
    """One thing that a client may send or hold.

    Attributes:
        what: it is.
        most: of it that there may be. ``{name}`` stands for the setting of that name and its default.
        then: what more of it gets.
        tests: that hold it, below ``tests``.
    """

    what: str
    most: str
    then: str = ""
    tests: tuple[str, ...] = ()


_STORE = inspect.signature(MemorySessionStore).parameters

MEMORY = {
    "Requests": [
        Row(
            "a head",
            "{max_head_size}",
            "431, or 414 for its first line",
            (
                "unit/http1/test_parser.py::test_at_and_over_the_limit",
                "unit/http1/test_parser.py::test_a_request_line_over_the_limit",
            ),
        ),
        Row(
            "a body",
            "{max_body_size}",
            "413, before it is read where its length is said",
            ("unit/http1/test_parser.py::test_a_body_over_the_limit_is_not_waited_for",),
        ),
        Row(
            "the line before a chunk",
            f"{MAX_CHUNK_LINE} bytes",
            "400",
            ("unit/http1/test_parser.py::test_at_the_limits",),
        ),
        Row(
            "fields and files of a form",
            f"{MAX_FIELDS} and {MAX_FILES}, or what `form()` is told",
            "400",
            (
                "unit/http/test_requests.py::test_too_many",
                "unit/http/test_requests.py::test_a_file_that_is_too_large",
            ),
        ),
        Row(
            "requests behind one another",
            "one is handled at a time; what lies behind it stays with the peer",
            "it waits",
            ("unit/http1/test_protocol.py::test_many_requests_at_once_leave_others_their_turn",),
        ),
        Row(
            "connections",
            "{max_connections}",
            "503",
            ("unit/http1/test_protocol.py::test_a_full_server_says_so",),
        ),
    ],
    "WebSockets": [
        Row(
            "a message",
            "{max_message_size}, whole, inflated, and of however many fragments",
            "1009, at the header of the frame that goes beyond",
            (
                "unit/wire/test_frames.py::test_a_frame_over_the_limit_is_refused_at_its_header",
                "unit/wire/test_frames.py::test_a_bomb_costs_no_more_than_the_limit",
                "unit/wire/test_frames.py::test_many_small_fragments_cost_what_their_message_costs",
                "unit/wire/test_frames.py::test_empty_fragments_cost_nothing_for_they_are_under_no_limit",
            ),
        ),
        Row(
            "messages that wait for a handler",
            "{inbox_limit}, and {inbox_bytes} together",
            "reading pauses; 1013 after {stall_timeout}",
            (
                "unit/websocket/test_dispatch.py::test_a_full_inbox_pauses_reading_and_loses_nothing",
                "unit/websocket/test_inbound.py::"
                "test_an_inbox_that_stays_full_is_the_end_and_one_that_does_not_is_not",
            ),
        ),
        Row(
            "handlers that run at once",
            "{max_overlap} of one connection",
            "messages wait",
            ("unit/websocket/test_dispatch.py::test_at_most_max_overlap_handlers_run_at_once",),
        ),
        Row(
            "what a peer does not read",
            "{outbox_limit}",
            "`send` waits; a group's message gets what `overflow` says",
            (
                "unit/websocket/test_dispatch.py::test_send_waits_while_the_outbox_is_full",
                "unit/wire/test_outbox.py::test_overflow_closes",
            ),
        ),
        Row(
            "pongs that a peer does not read",
            "the same",
            "reading pauses",
            ("unit/websocket/test_inbound.py::test_pings_of_a_peer_that_does_not_read_are_bounded",),
        ),
        Row(
            "messages of a named channel held for `enforce_ordering`",
            "100, and 1 MiB of text, of one connection",
            "`ChannelFull`, in the log",
            (
                "unit/sessions/test_decorators.py::test_not_too_many_messages_are_held",
                "unit/sessions/test_decorators.py::"
                "test_what_is_held_is_bounded_in_bytes_and_takes_no_more_than_its_text",
            ),
        ),
    ],
    "JSON and values": [
        Row(
            "levels of lists and objects",
            "1024, a few less",
            "an error frame, 1007 or 400",
            (
                "unit/test_content.py::test_refuses_what_nothing_can_hold",
                "unit/generic/test_multiplexing.py::test_a_payload_that_is_nested_too_deeply_is_answered",
            ),
        ),
        Row(
            "digits of a Decimal, written out",
            str(DECIMAL_DIGITS),
            "the same",
            ("unit/typed/test_typed.py::test_no_large_content_costs_much_more_than_items_that_fit",),
        ),
        Row(
            "mistakes that a typed content is told of",
            f"{MAX_DETAILS}, each cut short",
            "the rest is not said",
            ("unit/typed/test_typed.py::test_no_large_content_costs_much_more_than_items_that_fit",),
        ),
    ],
    "What outlives a message": [
        Row(
            "messages of a named channel",
            "{channel_capacity}, and {channel_bytes} together; {channel_expiry} old; "
            "of one connection {channel_share}",
            "`ChannelFull` for who sends, an error frame for whose stream it is",
            (
                "../triochan/test/layers.py::test_a_full_channel_says_so_and_loses_nothing",
                "../triochan/test/layers.py::test_a_channel_full_of_bytes_says_so_and_loses_nothing",
                "unit/generic/test_multiplexing.py::test_what_waits_for_a_stream_s_channel_is_bounded_in_bytes",
            ),
        ),
        Row(
            "dead letters of a durable channel",
            "{channel_dead_letters}",
            "the oldest goes",
            ("../triochan/test/named_channels.py::test_a_channel_keeps_so_many_dead_letters",),
        ),
        Row(
            "one message that waits there",
            "three times its text",
            "",
            ("unit/layers/test_contents.py::test_what_waits_takes_no_more_than_three_times_its_text",),
        ),
        Row(
            "sessions of `MemorySessionStore`",
            f"{_STORE['max_sessions'].default:,}, and {_STORE['max_bytes'].default // MIB} MiB together",
            "those that are over go, then those unused for longest",
            ("contracts/test_session_stores.py::test_it_is_bounded_in_bytes",),
        ),
        Row(
            "users that `user_rate_limit` counts",
            f"{MAX_BUCKETS:,}",
            "those that have been quiet for longest are forgotten",
            ("unit/layers/test_tokens.py::test_what_was_quiet_is_forgotten_first",),
        ),
    ],
}

TIMES = [
    Row(
        "a head, from the end of the request before",
        "{head_timeout}, {keep_alive_timeout} before its first byte",
        "408, or the end",
        ("real/test_bad_input.py",),
    ),
    Row("a body", "{body_timeout}", "408", ("real/test_bad_input.py::test_a_body_that_does_not_come",)),
    Row(
        "an answer",
        "{response_timeout} behind the consumer's return, where it was handed on",
        "503",
        ("unit/http1/test_protocol.py::test_no_answer_in_time_is_503",),
    ),
    Row(
        "taking some of a response",
        "{write_timeout}",
        "the end",
        ("unit/http1/test_protocol.py::test_who_only_listens_does_not_wait_for_ever",),
    ),
    Row(
        "a handshake",
        "{handshake_timeout}",
        "503",
        ("unit/websocket/test_connection.py::test_no_decision_in_time_is_503",),
    ),
    Row(
        "silence of a WebSocket",
        "{ping_interval} until a ping, {ping_timeout} until its pong",
        "1006",
        ("unit/websocket/test_closing.py",),
    ),
    Row(
        "the closing handshake",
        "{close_timeout}",
        "the end",
        ("unit/websocket/test_closing.py",),
    ),
    Row(
        "a handler",
        "{handler_timeout}; {disconnect_timeout} once its peer is gone",
        "1011 or 500; it is cancelled",
        (
            "unit/test_handlers.py::test_a_handler_that_takes_too_long",
            "unit/test_readers.py::test_a_handler_whose_peer_is_gone_has_disconnect_timeout",
        ),
    ),
]

TURNS = [
    Row(
        "requests of one connection",
        "16, then others have their turn",
        tests=("unit/http1/test_protocol.py::test_many_requests_at_once_leave_others_their_turn",),
    ),
    Row(
        "messages of one connection",
        "what one read brings, 64 KiB at most, and {inbox_limit} messages",
        tests=("unit/test_readers.py::test_a_turn_serves_everybody_in_turn",),
    ),
    Row(
        "a body of tiny chunks",
        "linear in its bytes on the wire, below 400 times an ordinary body of as many",
        tests=("unit/http1/test_parser.py::test_the_cost_of_tiny_chunks_is_bounded",),
    ),
    Row(
        "a text of JSON, whatever is in it",
        "linear in its length: no text costs much more than an ordinary one",
        tests=("unit/test_content.py::test_no_text_costs_much_more_than_an_ordinary_one",),
    ),
    Row(
        "a typed content, whatever is in it",
        "the same",
        tests=("unit/typed/test_typed.py::test_no_large_content_costs_much_more_than_items_that_fit",),
    ),
    Row(
        "a form",
        "16 KiB of it between two checkpoints, multipart or urlencoded",
        tests=(
            "unit/http/test_requests.py::test_whatever_comes_is_read_or_refused",
            "unit/test_field_costs.py::test_multipart_forms",
            "unit/test_field_costs.py::test_urlencoded_forms",
        ),
    ),
    Row(
        "a field of a head, whatever is in it",
        "below 400 times a head of as many bytes, which takes 0.1 ms for 16 KiB",
        tests=tuple(
            f"unit/test_field_costs.py::{name}"
            for name in (
                "test_cookies",
                "test_query_strings",
                "test_what_proxies_say",
                "test_what_is_asked_of_files",
                "test_lists_of_a_handshake",
            )
        ),
    ),
]


def tests_in(path: Path) -> Iterator[str]:
    """Names of the tests of a module, without their classes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
            yield node.name


def rows() -> Iterator[Row]:
    for each in MEMORY.values():
        yield from each
    yield from TIMES
    yield from TURNS


def render() -> str:
    """The page.

    Raises:
        KeyError: a row names a setting that there is not.
    """
    lines = [
        "# Limits",
        "",
        "What one client may cost a server at most: in memory, in time, and between two checkpoints. Made from the",
        "tests and the defaults (`just limits`); a test fails where it is stale. A name in `code` with a default",
        "behind it is a setting: `Settings(name=…)`, or `--name` on the command line.",
        "",
        "## Memory",
    ]
    for title, those in MEMORY.items():
        lines += ["", f"### {title}", "", *_table(those, "at most", "more gets")]
    lines += ["", "## Time", "", *_table(TIMES, "at most", "then")]
    lines += ["", "## Between two checkpoints", ""]
    lines += ["| what | at most | held by |", "|---|---|---|"]
    lines += [f"| {each.what} | {_filled(each.most)} | {_tests(each)} |" for each in TURNS]
    first, *others = (each.name for each in costs.kinds())
    lines += [
        "",
        "## Processor",
        "",
        "`just chaos` measures what each kind of input costs the server's processor per MB sent, and fails where",
        f"one costs more than {costs.MOST:.0f} times {first} of messages of 128 bytes. The yardstick and its reasons",
        "are in `tests/chaos/costs.py`; the run prints the figures. It measures",
        "",
        *(f"- {each}" for each in others),
    ]
    return "\n".join(lines) + "\n"


def _table(those: list[Row], most: str, then: str) -> list[str]:
    head = [f"| what | {most} | {then} | held by |", "|---|---|---|---|"]
    return head + [
        f"| {each.what} | {_filled(each.most)} | {_filled(each.then)} | {_tests(each)} |" for each in those
    ]


def _tests(row: Row) -> str:
    return "<br>".join(f"`{each}`" for each in row.tests)


def _filled(text: str) -> str:
    class Defaults(dict[str, str]):
        def __missing__(self, name: str) -> str:
            return f"`{name}` ({_default(name)})"

    return text.format_map(Defaults())


def _default(name: str) -> str:
    fields: dict[str, Any] = {each.name: each for each in Settings.__attrs_attrs__}
    field = fields[name]
    value, unit = field.default, field.metadata["unit"]
    if value is None:
        return "no limit"
    if unit == "bytes":
        return f"{value // MIB} MiB" if value >= MIB else f"{value // KIB} KiB"
    return f"{value:g} {unit}".strip()


if __name__ == "__main__":
    PAGE.write_text(render())

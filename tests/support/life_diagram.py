"""A WebSocket's life as ``docs/architecture.md`` shows it: a table and a diagram, made from ``life.TABLE``.

python tests/support/life_diagram.py          write that part of the page
python tests/support/life_diagram.py --check  exit with 1 where it is stale
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from triochan.websocket import life
from triochan.websocket.life import TABLE, Event, Order, State

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
BEGIN = "<!-- made by `just diagrams` from triochan/websocket/life.py -->"
END = "<!-- until here -->"

Table = Mapping[tuple[State, Event], tuple[State, Order]]


def meanings(kind: type[Enum]) -> dict[str, str]:
    """What stands below each member in the source, by the member's name; members without such a text are left out."""
    [tree] = [
        node
        for node in ast.parse(inspect.getsource(life)).body
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    ]
    found = {}
    for member, text in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(member, ast.Assign)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            found[ast.unparse(member.targets[0])] = " ".join(text.value.value.split())
    return found


def render(table: Table) -> str:
    """That part of the page, without its markers.

    A row of the table is a state, a column an event; a cell has the state that follows, and the order.
    """
    states = meanings(State)
    lines = [
        "| state | what it means |",
        "|---|---|",
        *(f"| {state.name} | {states[state.name]} |" for state in State),
        "",
        "| from \\ by | " + " | ".join(event.value for event in Event) + " |",
        "|---" * (len(Event) + 1) + "|",
        *(
            f"| {state.name} | " + " | ".join(_cell(table, state, event) for event in Event) + " |"
            for state in State
            if any((state, event) in table for event in Event)
        ),
        "",
        "```mermaid",
        "stateDiagram-v2",
        f"    [*] --> {State.CONNECTING.name}",
    ]
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, event), (after, _) in table.items():
        arrows.setdefault((state, after), []).append(event.value)
    lines += [
        f"    {state.name} --> {after.name}: {', '.join(events)}" for (state, after), events in arrows.items()
    ]
    left = {state for state, _ in table}
    lines += [f"    {state.name} --> [*]" for state in State if state not in left]
    return "\n".join([*lines, "```"])


def _cell(table: Table, state: State, event: Event) -> str:
    found = table.get((state, event))
    if found is None:
        return ""
    after, order = found
    return after.name if order is Order.NOTHING else f"{after.name}: {order.value}"


def replaced(page: str, table: Table = TABLE) -> str:
    """``page`` with that part made anew.

    Raises:
        ValueError: it has not both markers, once each and in their order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the page has to have {BEGIN!r} once and, behind it, {END!r} once")
    return f"{before}{BEGIN}\n\n{render(table)}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    page = PAGE.read_text()
    made = replaced(page)
    if arguments == ["--check"]:
        return 0 if made == page else 1
    PAGE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

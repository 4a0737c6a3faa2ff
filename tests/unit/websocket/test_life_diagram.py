"""The page of the architecture shows a WebSocket's life as the code has it."""

from __future__ import annotations

import re
from pathlib import Path

import life_diagram
import pytest
from life_diagram import BEGIN, END, PAGE, main, meanings, render, replaced

from triochan.websocket.life import TABLE, Event, Order, State


def test_the_page_is_not_stale() -> None:
    assert PAGE.read_text() == replaced(PAGE.read_text()), "run `just diagrams`"


def test_every_step_is_in_the_table_and_in_the_diagram() -> None:
    tables, _, diagram = render(TABLE).partition("```mermaid")
    _, matrix = tables.strip().split("\n\n")
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in matrix.splitlines()]
    assert head[1:] == [event.value for event in Event]
    shown = {
        (State[row[0]], event): cell
        for row in rows
        for event, cell in zip(Event, row[1:], strict=True)
        if cell
    }
    assert shown == {
        step: after.name if order is Order.NOTHING else f"{after.name}: {order.value}"
        for step, (after, order) in TABLE.items()
    }
    drawn = {
        (State[before], Event(event)): State[after]
        for before, after, events in re.findall(r"^ +([A-Z]+) --> ([A-Z]+): (.*)$", diagram, re.MULTILINE)
        for event in events.split(", ")
    }
    assert drawn == {step: after for step, (after, _) in TABLE.items()}


def test_every_state_has_its_meaning() -> None:
    assert meanings(State).keys() == State.__members__.keys()
    assert meanings(State)["CONNECTING"] == "The handshake is not decided."


def test_a_step_that_was_taken_out_is_noticed() -> None:
    page = PAGE.read_text()
    fewer = {key: step for key, step in TABLE.items() if key != (State.OPEN, Event.DRAIN)}
    made = replaced(page, fewer)
    assert made != page
    assert "OPEN --> DRAINING" in page
    assert "OPEN --> DRAINING" not in made


@pytest.mark.parametrize("page", ["", BEGIN, END, END + BEGIN, BEGIN + END + END, BEGIN + BEGIN + END])
def test_a_page_without_its_markers_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="once"):
        replaced(page)


def test_the_page_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nbehind\n")
    monkeypatch.setattr(life_diagram, "PAGE", page)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nbehind\n")
    assert "old" not in text

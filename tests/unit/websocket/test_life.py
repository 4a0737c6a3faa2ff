"""A WebSocket's life, tested whole: every state and event, and every sequence of five events. Without Trio."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator

import pytest

from triochan.websocket.life import Event, Life, Order, State

# What docs/architecture.md says, once more and by hand: for each state, what each event makes of it and orders.
# An event that a state does not name changes nothing.
EXPECTED: dict[State, dict[Event, tuple[State, Order]]] = {
    State.CONNECTING: {
        Event.ACCEPT: (State.OPEN, Order.NOTHING),
        Event.REFUSE: (State.REFUSED, Order.SEAL),
        Event.LOSE: (State.GONE, Order.CUT),
    },
    State.OPEN: {
        Event.DRAIN: (State.DRAINING, Order.NOTHING),
        Event.CLOSE: (State.CLOSING, Order.SEND),
        Event.PEER_CLOSE: (State.ANSWERED, Order.ANSWER),
        Event.FAIL: (State.FAILING, Order.SEND),
        Event.LOSE: (State.GONE, Order.CUT),
    },
    State.DRAINING: {
        Event.CLOSE: (State.CLOSING, Order.SEND),
        Event.PEER_CLOSE: (State.ANSWERED, Order.ANSWER),
        Event.FAIL: (State.FAILING, Order.SEND),
        Event.LOSE: (State.GONE, Order.CUT),
    },
    State.CLOSING: {
        Event.PEER_CLOSE: (State.GONE, Order.CUT),
        Event.FAIL: (State.GONE, Order.CUT),
        Event.LOSE: (State.GONE, Order.CUT),
    },
    State.ANSWERED: {Event.FAIL: (State.GONE, Order.CUT), Event.LOSE: (State.GONE, Order.CUT)},
    State.FAILING: {Event.LOSE: (State.GONE, Order.CUT)},
    State.REFUSED: {},
    State.GONE: {},
}

# The shortest way to each state.
WAYS: dict[State, list[Event]] = {
    State.CONNECTING: [],
    State.OPEN: [Event.ACCEPT],
    State.DRAINING: [Event.ACCEPT, Event.DRAIN],
    State.CLOSING: [Event.ACCEPT, Event.CLOSE],
    State.ANSWERED: [Event.ACCEPT, Event.PEER_CLOSE],
    State.FAILING: [Event.ACCEPT, Event.FAIL],
    State.REFUSED: [Event.REFUSE],
    State.GONE: [Event.LOSE],
}

TALKING = {State.OPEN, State.DRAINING}
ALIVE = TALKING | {State.CONNECTING}
ENDING = set(Event) - {Event.ACCEPT, Event.DRAIN}


def at(state: State) -> Life:
    life = Life()
    for event in WAYS[state]:
        life.step(event, 4000, "on the way")
    assert life.state is state
    return life


def sequences() -> Iterator[tuple[Event, ...]]:
    return itertools.product(Event, repeat=5)


@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_every_state_and_event(state: State, event: Event) -> None:
    life = at(state)
    became, order = EXPECTED[state].get(event, (state, Order.NOTHING))
    assert life.step(event, 4001, "then") is order
    assert life.state is became


def test_a_new_life() -> None:
    life = Life()
    assert (life.state, life.code, life.reason, life.accepted) == (State.CONNECTING, 0, "", False)
    assert not life.talking
    assert not life.over


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_what_a_state_says_of_itself(state: State) -> None:
    life = at(state)
    assert life.talking == (state in TALKING)
    assert life.over == (state is State.GONE)
    assert life.accepted == (Event.ACCEPT in WAYS[state])


def test_every_sequence_of_five_events_goes_by_the_table() -> None:
    count = 0
    for events in sequences():
        life, state = Life(), State.CONNECTING
        for event in events:
            state, order = EXPECTED[state].get(event, (state, Order.NOTHING))
            assert life.step(event) is order, events
            assert life.state is state, events
        count += 1
    assert count == 7**5


def test_code_and_reason_are_those_of_the_first_event_that_ended_it() -> None:
    for events in sequences():
        life = Life()
        ended: tuple[int, str] | None = None
        for number, event in enumerate(events):
            before = life.state
            life.step(event, 4000 + number, f"event {number}")
            if ended is None and life.state is not before and event in ENDING:
                ended = (4000 + number, f"event {number}")
            assert (life.code, life.reason) == (ended or (0, "")), events


def test_terminal_states_stay() -> None:
    for events in sequences():
        life = Life()
        terminal: State | None = None
        for event in events:
            life.step(event)
            if terminal is not None:
                assert life.state is terminal, events
            elif life.state in (State.GONE, State.REFUSED):
                terminal = life.state


def test_the_program_is_sealed_off_once_and_before_anything_else() -> None:
    """The step that leaves the states in which the program may send has an order, and every order seals first; no
    close frame is ordered a second time, and nothing but the cut follows it."""
    for events in sequences():
        life = Life()
        orders: list[Order] = []
        for event in events:
            before = life.state
            order = life.step(event)
            assert (order is not Order.NOTHING) == (life.state is not before and life.state not in TALKING)
            if before in ALIVE and life.state not in ALIVE:
                assert order is not Order.NOTHING, events
                assert not orders, events
            if order is not Order.NOTHING:
                orders.append(order)
        assert orders in (
            [],
            [Order.SEAL],
            [Order.CUT],
            [Order.SEND],
            [Order.ANSWER],
            [Order.SEND, Order.CUT],
            [Order.ANSWER, Order.CUT],
        ), events


def test_disconnect_is_owed_by_what_was_accepted_alone() -> None:
    for events in sequences():
        life = Life()
        accepted = False
        for event in events:
            accepted = accepted or (event is Event.ACCEPT and life.state is State.CONNECTING)
            life.step(event)
            assert life.accepted == accepted, events


def test_every_state_can_be_left_for_good() -> None:
    """Whatever comes, a loss of the transport ends it: no state waits for the peer alone. A refusal is cut by its
    owner."""
    for state in set(State) - {State.REFUSED}:
        life = at(state)
        life.step(Event.LOSE)
        assert life.over


def test_it_needs_no_trio() -> None:
    """The module itself: a package above it may run what does."""
    code = (
        "import importlib.util, sys\n"
        "before = set(sys.modules)\n"  # measuring what runs imports things of its own
        "spec = importlib.util.spec_from_file_location('life', sys.argv[1])\n"
        "life = importlib.util.module_from_spec(spec); sys.modules['life'] = life\n"
        "spec.loader.exec_module(life)\n"
        "assert life.Life().step(life.Event.ACCEPT) is life.Order.NOTHING\n"
        "print(sorted({'trio', 'socket', 'select'} & (set(sys.modules) - before)))\n"
    )
    place = sys.modules[Life.__module__].__file__
    assert place is not None
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code, place], capture_output=True, text=True, timeout=30, check=True
    )
    assert ran.stdout == "[]\n"

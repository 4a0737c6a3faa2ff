"""A WebSocket's life: states, events and what each step orders, without I/O (RFC 6455 sections 4.2.2 and 7).

One table says it all; ``docs/architecture.md`` draws it. A step that the table does not have changes nothing.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a connection stands."""

    __hash__ = object.__hash__  # Enum's own is a call of Python's for every step

    CONNECTING = "connecting"
    """The handshake is not decided."""
    OPEN = "open"
    """Messages go both ways."""
    DRAINING = "draining"
    """A shutdown: new messages are not taken; what was received is handled and answered."""
    CLOSING = "closing"
    """Our close frame is on its way; the peer's is awaited."""
    ANSWERED = "answered"
    """The peer has closed; the answer to it is on its way."""
    FAILING = "failing"
    """Our close frame is on its way, and nothing that comes is listened to."""
    REFUSED = "refused"
    """The handshake was refused."""
    GONE = "gone"
    """Nothing comes or goes any more."""


class Event(Enum):
    """What happens to it."""

    __hash__ = object.__hash__

    ACCEPT = "accept"
    REFUSE = "refuse"
    DRAIN = "drain"
    CLOSE = "close"
    """This side closes."""
    PEER_CLOSE = "peer's close"
    FAIL = "fail"
    """The peer is at fault, or too slow: it is told, and not listened to."""
    LOSE = "lose"
    """The transport is lost, or has served."""


class Order(Enum):
    """What the connection has to do. All but the first begin with refusing what the program sends from then on."""

    NOTHING = "nothing"
    SEAL = "seal"
    """That alone: the refusal has its own answer."""
    SEND = "send"
    """Send a close frame with :attr:`Life.code` and :attr:`Life.reason`."""
    ANSWER = "answer"
    """Answer the peer's close frame, and cut when that has left."""
    CUT = "cut"
    """Close the transport."""


TABLE: dict[tuple[State, Event], tuple[State, Order]] = {
    (State.CONNECTING, Event.ACCEPT): (State.OPEN, Order.NOTHING),
    (State.CONNECTING, Event.REFUSE): (State.REFUSED, Order.SEAL),
    (State.CONNECTING, Event.LOSE): (State.GONE, Order.CUT),
    (State.OPEN, Event.DRAIN): (State.DRAINING, Order.NOTHING),
    (State.OPEN, Event.CLOSE): (State.CLOSING, Order.SEND),
    (State.OPEN, Event.PEER_CLOSE): (State.ANSWERED, Order.ANSWER),
    (State.OPEN, Event.FAIL): (State.FAILING, Order.SEND),
    (State.OPEN, Event.LOSE): (State.GONE, Order.CUT),
    (State.DRAINING, Event.CLOSE): (State.CLOSING, Order.SEND),
    (State.DRAINING, Event.PEER_CLOSE): (State.ANSWERED, Order.ANSWER),
    (State.DRAINING, Event.FAIL): (State.FAILING, Order.SEND),
    (State.DRAINING, Event.LOSE): (State.GONE, Order.CUT),
    (State.CLOSING, Event.PEER_CLOSE): (State.GONE, Order.CUT),
    (State.CLOSING, Event.FAIL): (State.GONE, Order.CUT),
    (State.CLOSING, Event.LOSE): (State.GONE, Order.CUT),
    (State.ANSWERED, Event.FAIL): (State.GONE, Order.CUT),
    (State.ANSWERED, Event.LOSE): (State.GONE, Order.CUT),
    (State.FAILING, Event.LOSE): (State.GONE, Order.CUT),
}
"""What may happen: from a state, by an event, to a state, with an order."""


class Life:
    """The state of one connection, and how it ends.

    Attributes:
        state: where it stands.
        code, reason: of its end, set by the first event that ends it; 0 and "" until then.
        accepted: the handshake was accepted, so that ``disconnect`` is owed.
    """

    __slots__ = ("accepted", "code", "reason", "state")

    def __init__(self) -> None:
        self.state = State.CONNECTING
        self.code = 0
        self.reason = ""
        self.accepted = False

    def step(self, event: Event, code: int = 0, reason: str = "") -> Order:
        """Let ``event`` happen.

        Args:
            code, reason: of an event that ends the connection; they count where nothing has ended it yet.
        """
        found = TABLE.get((self.state, event))
        if found is None:
            return Order.NOTHING
        self.state, order = found
        if event is Event.ACCEPT:
            self.accepted = True
        elif event is not Event.DRAIN and not self.code:
            self.code, self.reason = code, reason
        return order

    @property
    def talking(self) -> bool:
        """The program may send, and is told what comes."""
        return self.state is State.OPEN or self.state is State.DRAINING

    @property
    def over(self) -> bool:
        """Nothing comes or goes any more."""
        return self.state is State.GONE

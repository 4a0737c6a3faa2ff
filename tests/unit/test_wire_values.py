"""Values that JSON has no form of its own for: one rule, whichever way they leave and come."""

from __future__ import annotations

import datetime
import decimal
import enum
import json as standard
import math
import sys
import uuid
from collections import OrderedDict
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Numeric
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from trio.testing import MockClock

from triochan import Application, Group, Message, content, route, route_class
from triochan.binding.sqlalchemy import Database
from triochan.binding.websockets import WebsocketBindingWithMembers
from triochan.content import DECIMAL_DIGITS, decode_json, encode_json, is_plain, plain_of
from triochan.exceptions import InvalidContent
from triochan.generic.websockets import (
    JsonWebsocketConsumer,
    WebsocketDemultiplexer,
    WebsocketMultiplexer,
)
from triochan.http import json
from triochan.test import Client, WSClient
from triochan.typed import ContentType, converts_plain, encode_content, make_converter, to_plain
from triochan.typed.scalars import MAX_SAFE_INTEGER

MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
PRICE = Decimal("19.90")


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    def __str__(self) -> str:
        return "something else"


class Half(float):
    def __str__(self) -> str:
        return "half"


class Pair(NamedTuple):
    x: int
    y: Any


@attrs.frozen
class Priced:
    price: Decimal
    at: datetime.datetime | None = None


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)  # fmt: skip


class Calls:
    def __init__(self) -> None:
        self.made = 0

    def again(self, other: Any = None) -> None:
        self.made += 1
        if self.made > 3 * sys.getrecursionlimit():
            raise OverflowError
        again = self.again
        again()


def recursion_ends() -> bool:
    """CPython 3.13.0 to 3.13.7 do not count calls of methods with defaults, as cattrs' are: memory ends before they
    do (https://github.com/python/cpython/issues/132744)."""
    try:
        Calls().again()
    except OverflowError:
        return False
    except RecursionError:
        pass
    return True


class TestEncoding:
    @given(PLAIN)
    def test_plain_values_are_left_alone(self, value: Any) -> None:
        assert is_plain(value)
        assert plain_of(value) == value
        assert standard.loads(encode_json(value)) == value

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (PRICE, '"19.90"'),
            (Decimal("1E+2"), '"1E+2"'),
            (Decimal("-0.00"), '"-0.00"'),
            ([PRICE, {"a": (PRICE,)}], '["19.90",{"a":["19.90"]}]'),
            (Colour.RED, "1"),
            ({Colour.RED: 1}, '{"1":1}'),
            ({1: "a", "1": "b"}, None),
            ({2.5: "b"}, '{"2.5":"b"}'),
            ({2: "a", None: "c", False: "d"}, '{"2":"a","null":"c","false":"d"}'),
            (Name("Ada"), '"Ada"'),
            ({Name("Ada"): 1}, '{"Ada":1}'),
            (Half(0.5), "0.5"),
            (Pair(1, PRICE), '[1,"19.90"]'),
            (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
            ((1, (2,)), "[1,[2]]"),
            ("\\ud83d", r'"\\ud83d"'),
            ("😀", '"\\ud83d\\ude00"'),
        ],
    )
    def test_forms(self, value: Any, text: str | None) -> None:
        if text is None:
            with pytest.raises(ValueError, match="two keys are '1' in JSON"):
                encode_json(value)
        else:
            assert encode_json(value) == text

    @pytest.mark.parametrize(
        ("value", "error", "says"),
        [
            ({"a": [1, math.nan]}, OverflowError, r"\$\['a'\]\[1\]: nan is no number in JSON"),
            (math.inf, OverflowError, r"\$: inf is no number"),
            ([Decimal("NaN")], OverflowError, r"\$\[0\]: Decimal NaN is not finite"),
            (Decimal("sNaN"), OverflowError, "not finite"),
            (Decimal("-Infinity"), OverflowError, "not finite"),
            (Decimal("1E+1000000"), OverflowError, f"over {DECIMAL_DIGITS} digits"),
            (Decimal("1E-1001"), OverflowError, f"over {DECIMAL_DIGITS} digits"),
            ({"a": b"x"}, TypeError, r"\$\['a'\]: a builtins\.bytes is not JSON serializable"),
            ({1, 2}, TypeError, "a builtins.set is not JSON serializable"),
            ({(1, 2): 3}, TypeError, "a key in JSON is a string, not a tuple"),
            ({"a": object()}, TypeError, "a builtins.object is not JSON serializable"),
            ("\ud800", ValueError, "a lone surrogate"),
            (["a\udfff"], ValueError, "a lone surrogate"),
            ("\ude00\ud83d", ValueError, "a lone surrogate"),
        ],
    )
    def test_what_has_no_form(self, value: Any, error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            encode_json(value)

    @pytest.mark.parametrize(
        "wrap", [lambda value: [value], lambda value: {"a": value}, lambda value: (value,)]
    )
    @pytest.mark.parametrize("core", [1, PRICE])
    def test_what_is_too_deep(self, wrap: Any, core: Any) -> None:
        deep = core
        for _ in range(5000):
            deep = wrap(deep)
        with pytest.raises(OverflowError, match="deep"):
            encode_json(deep)

    def test_deep_and_plain(self) -> None:
        deep: Any = [1]
        for _ in range(1000):
            deep = [deep, {"a": 1}]
        assert is_plain(deep)
        assert encode_json(deep).startswith("[" * 1000)

    def test_a_program_that_may_go_deeper(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(content, "_DEEPEST", 3)
        with pytest.raises(OverflowError, match=r"\$\[0\]\[0\]\[0\]: over 3 levels deep"):
            plain_of([[[[PRICE]]]])

    @pytest.mark.skipif(not recursion_ends(), reason="this Python lets methods call each other without end")
    def test_an_object_that_holds_itself(self) -> None:
        @attrs.define
        class Node:
            child: Any = None

        node = Node()
        node.child = node
        with pytest.raises(OverflowError, match="holds itself"):
            encode_content(node)

    def test_an_overflow_that_nobody_can_place(self) -> None:
        error = OverflowError("of the encoder's own")
        assert content._explained({"a": [1, "b"]}, error) is error

    def test_what_holds_itself(self) -> None:
        circle: list[Any] = [1]
        circle.append(circle)
        with pytest.raises(OverflowError, match="deep"):
            encode_json(circle)
        twice: dict[str, Any] = {"price": PRICE}
        twice["a"] = twice["b"] = twice
        with pytest.raises(OverflowError, match="deep"):
            encode_content(twice)

    def test_deep_and_not_plain(self) -> None:
        deep: Any = {1: 2}
        for _ in range(900):
            deep = [deep]
        assert encode_json(deep) == "[" * 900 + '{"1":2}' + "]" * 900
        for _ in range(100):
            deep = [deep]
        assert not is_plain(deep)
        deep = {"k": object()}
        for _ in range(1000):
            deep = [1, deep]
        assert not is_plain(deep)
        deep = {1: 1}
        for _ in range(1000):
            deep = {"k": deep, "l": 1}
        assert not is_plain(deep)


def decoded(value: str, kind: Any, **options: Any) -> Any:
    application = Application([], converter=make_converter(**options))
    return ContentType(kind, "here").structure(decode_json(value), application)


class TestDecoding:
    @pytest.mark.parametrize(
        "text", ["NaN", "sNaN", "Infinity", "-Infinity", "inf", "1_0", " 1", "1 ", "１", "1E+1000000", "0x1", "", "1e",
                 "1" * 2000, ".", "+-1"]
    )  # fmt: skip
    def test_what_is_no_decimal(self, text: str) -> None:
        with pytest.raises(InvalidContent):
            decoded(standard.dumps(text), Decimal)

    @pytest.mark.parametrize("text", ["19.90", "-1", "+1", "1.", ".5", "1e3", "1E-5", "0.000", "9" * 900])
    def test_decimals_keep_their_digits(self, text: str) -> None:
        made = decoded(standard.dumps(text), Decimal)
        assert made == Decimal(text)
        assert made.as_tuple() == Decimal(text).as_tuple()

    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            (uuid.UUID, "{12345678-1234-5678-1234-567812345678}"),
            (uuid.UUID, "urn:uuid:12345678-1234-5678-1234-567812345678"),
            (uuid.UUID, "1234-5678123456781234567812345678"),
            (datetime.datetime, "2026-01-02x03:04:05"),
            (datetime.datetime, "２０２６-01-02T03:04:05"),
            (datetime.date, "2026-01-02T00:00:00"),
            (datetime.time, "3 o'clock"),
        ],
    )
    def test_odd_forms(self, kind: Any, text: str) -> None:
        with pytest.raises(InvalidContent):
            decoded(standard.dumps(text), kind)

    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            (uuid.UUID, "12345678-1234-5678-1234-567812345678"),
            (uuid.UUID, "12345678123456781234567812345678"),
            (datetime.datetime, "2026-01-02T03:04:05Z"),
            (datetime.datetime, "2026-01-02 03:04:05.5+01:00"),
            (datetime.datetime, "2026-01-02"),
            (datetime.date, "2026-01-02"),
            (datetime.time, "03:04"),
        ],
    )
    def test_usual_forms(self, kind: Any, text: str) -> None:
        assert type(decoded(standard.dumps(text), kind)) is kind


LARGE = 2**53


class TestLargeIntegers:
    @given(st.integers(-(10**30), 10**30))
    def test_there_and_back(self, number: int) -> None:
        converter = make_converter(large_integers_as_strings=True)
        application = Application([], converter=converter)
        text = encode_content({"id": number}, application)
        assert ('"id":"' in text) == (abs(number) > MAX_SAFE_INTEGER)
        assert ContentType(dict[str, int], "here").structure(decode_json(text), application) == {"id": number}

    def test_booleans_enums_and_keys(self) -> None:
        application = Application([], converter=make_converter(large_integers_as_strings=True))
        value = {"yes": True, "red": Colour.RED, "large": [LARGE], "nested": Pair(LARGE, None)}
        assert decode_json(encode_content(value, application)) == {
            "yes": True, "red": 1, "large": [str(LARGE)], "nested": [str(LARGE), None],
        }  # fmt: skip

    @pytest.mark.parametrize(
        "text",
        [
            str(LARGE),
            '"1"',
            '"1000000000000000"',
            '"09007199254740993"',
            '"9007199254740993.0"',
            '"x"',
            "1.5",
            '"' + "9" * 5000 + '"',
        ],
    )
    def test_what_does_not_fit(self, text: str) -> None:
        with pytest.raises(InvalidContent):
            decoded(text, int, large_integers_as_strings=True)

    def test_an_enum_and_a_union(self) -> None:
        class Big(enum.IntEnum):
            LARGE = LARGE

        options: dict[str, Any] = {"large_integers_as_strings": True}
        assert decoded(f'"{LARGE}"', int | None, **options) == LARGE
        assert decoded("null", int | None, **options) is None
        assert decoded("5", int | None, **options) == 5
        assert decoded(f'"{LARGE}"', Big, **options) is Big.LARGE

    def test_without_it_they_are_numbers(self) -> None:
        assert encode_content({"id": LARGE}) == f'{{"id":{LARGE}}}'
        assert decoded(str(LARGE), int) == LARGE

    def test_a_union_with_booleans(self) -> None:
        assert decoded("true", bool | str, large_integers_as_strings=True) is True
        assert decoded("5", bool | int, large_integers_as_strings=True) == 5


# -- every way out


class Prices(JsonWebsocketConsumer):
    groups = ("prices",)

    async def receive(self, content: Any, **kwargs: Any) -> None:
        value: Any = {"price": PRICE, "at": MOMENT} if content["date"] else {"price": PRICE}
        if content["by"] == "send":
            await self.send(value)
        elif content["by"] == "object":
            await self.send(Priced(PRICE, MOMENT if content["date"] else None))
        else:
            await self.group_send("prices", value)


class Stream(JsonWebsocketConsumer):
    async def receive(self, content: Any, multiplexer: Any = None, **kwargs: Any) -> None:
        await multiplexer.send({"price": PRICE, "at": MOMENT} if content["date"] else {"price": PRICE})


class Streams(WebsocketDemultiplexer):
    consumers: ClassVar[dict[str, Any]] = {"a": Stream}


@pytest.mark.parametrize("date", [False, True])
@pytest.mark.parametrize("by", ["send", "object", "group"])
async def test_a_decimal_keeps_its_digits_on_a_socket(by: str, date: bool) -> None:
    async with WSClient([route_class(Prices)]) as socket:
        await socket.send_json({"by": by, "date": date})
        got = await socket.receive_json()
    assert got["price"] == "19.90"
    assert got.get("at") == ("2026-01-02T03:04:05+00:00" if date else None)


@pytest.mark.parametrize("date", [False, True])
async def test_and_on_a_stream(date: bool) -> None:
    async with WSClient([route_class(Streams)]) as socket:
        await socket.send_json({"stream": "a", "payload": {"date": date}})
        assert (await socket.receive_json())["payload"]["price"] == "19.90"
    frame = WebsocketMultiplexer.encode("a", {"price": PRICE})
    assert decode_json(frame["text"]) == {"stream": "a", "payload": {"price": "19.90"}}


async def test_and_over_http() -> None:
    async def prices(message: Message) -> object:
        return json({"price": PRICE, "at": MOMENT, "item": Priced(PRICE)})

    async def binary(message: Message) -> object:
        return json({"raw": b"x"})

    routing = [route("http.request", prices, path="^/$"), route("http.request", binary, path="^/binary$")]
    async with Client(routing) as client:
        assert (await client.get("/")).json() == {
            "price": "19.90", "at": "2026-01-02T03:04:05+00:00", "item": {"price": "19.90", "at": None},
        }  # fmt: skip
        assert (await client.get("/binary")).status == 500


class Hooked:
    def __init__(self, name: str) -> None:
        self.name = name


async def test_hooks_hold_for_a_task_beside_the_server(autojump_clock: MockClock) -> None:
    converter = make_converter()
    converter.register_unstructure_hook(Hooked, lambda value: f"hooked {value.name}")
    converter.register_unstructure_hook(str, lambda value: value.upper())
    assert converts_plain(converter)
    assert not converts_plain(make_converter())

    class Listener(JsonWebsocketConsumer):
        groups = ("all",)

    application = Application([route_class(Listener)], converter=converter)
    ready, sent = trio.Event(), trio.Event()

    async def beside() -> None:
        await ready.wait()
        await Listener.group_send("all", {"who": Hooked("Ada"), "plain": "text"})
        sent.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beside)  # begun before the server
        async with Client(application) as client, client.websocket("/") as socket:
            ready.set()
            await sent.wait()
            assert await socket.receive_json() == {"who": "hooked Ada", "plain": "TEXT"}
            assert (await Group("all").members()) != []


async def test_hooks_are_not_for_what_comes_in_on_a_stream() -> None:
    converter = make_converter()
    converter.register_unstructure_hook(str, lambda value: value.upper())

    class Says(JsonWebsocketConsumer):
        async def receive(self, content: Any, **kwargs: Any) -> None:
            await kwargs["multiplexer"].send({"same": content == {"who": "Ada"}, "who": content["who"]})

    class Demultiplexer(WebsocketDemultiplexer):
        consumers: ClassVar[dict[str, Any]] = {"a": Says}

    async with WSClient(Application([route_class(Demultiplexer)], converter=converter)) as socket:
        await socket.send('{"stream": "a", "payload": {"who": "Ada"}}')
        assert (await socket.receive_json())["payload"] == {"same": True, "who": "ADA"}


class Euros(decimal.Decimal):
    pass


@pytest.mark.parametrize("beside", [False, True])
async def test_hooks_hold_in_the_thread_of_a_session(beside: bool) -> None:
    """Of a task beside the server too, whose context says nothing of an application."""

    class Base(DeclarativeBase):
        pass

    class Price(Base):
        __tablename__ = "prices"
        id: Mapped[int] = mapped_column(primary_key=True)
        amount: Mapped[decimal.Decimal] = mapped_column(Numeric(8, 2, asdecimal=False))

        @property
        def euros(self) -> Euros:
            return Euros(self.amount)

    database = Database("sqlite://")
    Base.metadata.create_all(database.engine)

    class PriceBinding(WebsocketBindingWithMembers):
        model = database.model(Price)
        stream = "prices"
        fields = ()
        send_members = ("euros",)

        @classmethod
        def group_names(cls, instance: Price) -> list[str]:
            return ["all"]

    async def add() -> None:
        await database.run_in_session(lambda session: session.add(Price(id=2**60, amount=1.5)))

    class Demultiplexer(WebsocketDemultiplexer):
        consumers: ClassVar[dict[str, Any]] = {"prices": PriceBinding.consumer}
        groups = ("all",)

        async def connect(self, message: Message, **kwargs: Any) -> None:
            if not beside:
                await add()
            await PriceBinding.send_list(message, self.groups)

    converter = make_converter(large_integers_as_strings=True)
    converter.register_unstructure_hook(Euros, lambda value: f"{value} EUR")
    item = {"pk": str(2**60), "data": {"euros": "1.5 EUR"}}
    async with Client(Application([route_class(Demultiplexer)], converter=converter)) as client:
        async with client.websocket("/") as socket:
            if beside:
                assert (await socket.receive_json())["payload"]["items"] == []
                await add()
            change = (await socket.receive_json())["payload"]
            assert change == {**item, "action": "create", "model": "test_wire_values.price"}
        if not beside:
            database.close()
            return
        async with client.websocket("/") as socket:
            assert (await socket.receive_json())["payload"]["items"] == [item]
            frame = '{"stream": "prices", "payload": {"action": "delete", "pk": %s}}'
            await socket.send(frame % (2**60))
            answer = await socket.receive_json()
            assert "as a string of digits" in answer["details"][0]
            await socket.send(frame % f'"{2**60}"')
            assert (await socket.receive_json())[
                "error"
            ] == "not permitted"  # it is read, and permitted to nobody
    database.close()


def test_what_is_made_by_hand_is_made_of_plain_values() -> None:
    assert to_plain({"a": Priced(PRICE)}) == {"a": {"price": "19.90", "at": None}}
    assert to_plain([1, "a"]) == [1, "a"]
    with pytest.raises(OverflowError, match="not finite"):
        to_plain(Priced(decimal.Decimal("NaN")))

"""What bindings tell is what is stored, to whom it is for, whatever changed it; and nothing is untold in silence."""

from __future__ import annotations

import datetime
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any, ClassVar

import attrs
import pytest
from sqlalchemy import JSON, Float, Numeric, String, event, insert, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from trio.testing import MockClock

from triochan import Message, Settings, route_class
from triochan.binding.collections import Collection
from triochan.binding.sqlalchemy import Database
from triochan.binding.websockets import WebsocketBinding
from triochan.content import decode_json
from triochan.generic.websockets import WebsocketDemultiplexer
from triochan.layers import MemoryLayer
from triochan.test import Client, WSClient


class Recording(MemoryLayer):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, str, Any]] = []

    async def group_send(self, group: str, content: dict[str, Any], exclude: str | None = None) -> None:
        payload = decode_json(content["text"])["payload"]
        self.sent.append((group, payload["action"], payload["data"]))

    def take(self) -> list[tuple[str, str, Any]]:
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
async def layer() -> AsyncIterator[Recording]:
    recording = Recording()
    async with recording.running():
        yield recording


def bind(source: Any, fields: list[str], names: Callable[[Any], list[str]]) -> type[WebsocketBinding]:
    body = {
        "model": source,
        "stream": "s",
        "fields": fields,
        "group_names": classmethod(lambda cls, each: names(each)),
    }
    return type("Bound", (WebsocketBinding,), body)


# -- collections: what a program goes on with is not the collection's


@attrs.define
class Inner:
    readers: list[str] = attrs.field(factory=list)


@attrs.define
class Doc:
    readers: list[str] = attrs.field(factory=list)
    inner: Inner = attrs.field(factory=Inner)
    by_name: dict[str, list[str]] = attrs.field(factory=dict)
    lock: Any = None
    id: int | None = None


def seen_by(doc: Doc) -> list[str]:
    return [*doc.readers, *doc.inner.readers, *doc.by_name.get("readers", [])]


def grow(doc: Doc, where: str) -> dict[str, Any]:
    if where == "list":
        doc.readers.append("bob")
        return {"readers": doc.readers}
    if where == "object":
        doc.inner.readers.append("bob")
        return {"inner": doc.inner}
    doc.by_name.setdefault("readers", []).append("bob")
    return {"by_name": doc.by_name}


@pytest.mark.parametrize("where", ["list", "object", "dict"])
@pytest.mark.parametrize("had_by", ["item", "get", "iteration", "insert", "given", "update"])
async def test_who_is_new_is_told_create(layer: Recording, where: str, had_by: str) -> None:
    docs = Collection(Doc)
    bind(docs, ["readers"], seen_by)
    given = Doc(["ann"], id=1)
    inserted = await docs.insert(given)
    ways: dict[str, Any] = {
        "item": docs[1],
        "get": docs.get(1),
        "iteration": next(iter(docs)),
        "insert": inserted,
        "given": given,
        "update": await docs.update(1),
    }
    doc = ways[had_by]
    layer.take()
    changes = grow(doc, where)
    assert "bob" not in seen_by(docs[1])
    await docs.update(1, **changes)
    told = {(group, action) for group, action, _ in layer.take()}
    assert told == {("ann", "update"), ("bob", "create")}
    changes[next(iter(changes))] = None  # what was given is the program's still
    grow(doc, where)
    assert seen_by(docs[1]).count("bob") == 1


async def test_what_can_not_be_copied_is_shared() -> None:
    import threading

    lock = threading.Lock()
    docs = Collection(Doc)
    await docs.insert(Doc(lock=lock, id=1))
    assert docs[1].lock is lock


# -- databases: what is told is what a look into the database gives


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {dict[str, Any]: JSON}


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20), default="")
    price: Mapped[Decimal] = mapped_column(Numeric(8, 2), default=Decimal("0.00"))
    at: Mapped[datetime.datetime | None]
    weight: Mapped[float | None] = mapped_column(Float)
    stamped: Mapped[str] = mapped_column(String(20), server_default="new", server_onupdate=None)
    extra: Mapped[dict[str, Any] | None]


class Other(Base):
    __tablename__ = "others"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


FIELDS = ["name", "price", "at", "weight", "stamped"]


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database("sqlite://")
    Base.metadata.create_all(database.engine)
    yield database
    database.close()


def adding(**values: Any) -> Callable[[Session], int]:
    def work(session: Session) -> int:
        item = Item(**values)
        session.add(item)
        session.flush()
        return item.id

    return work


def stored(session: Session, pk: int) -> Any:
    session.expire_all()
    item = session.get(Item, pk)
    assert item is not None
    return {
        "price": str(item.price),
        "at": None if item.at is None else item.at.isoformat(),
        "stamped": item.stamped,
    }


AWARE = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))


@pytest.mark.parametrize(
    "values", [{"at": AWARE}, {"price": Decimal("1.23456")}, {"price": Decimal("1E+2")}, {"name": "x"}]
)
@pytest.mark.filterwarnings("ignore:Dialect sqlite")
async def test_what_is_told_is_what_is_stored(
    database: Database, layer: Recording, values: dict[str, Any]
) -> None:
    bind(database.model(Item), FIELDS, lambda item: ["all"])
    pk = await database.run_in_session(adding(**values))
    [(_, action, data)] = layer.take()
    kept = await database.run_in_session(stored, pk)
    assert (action, {name: data[name] for name in kept}) == ("create", kept)

    def change(session: Session) -> None:
        item = session.get(Item, pk)
        assert item is not None
        item.price, item.at = Decimal("9.87654"), AWARE

    await database.run_in_session(change)
    [(_, action, data)] = layer.take()
    kept = await database.run_in_session(stored, pk)
    assert (action, {name: data[name] for name in kept}) == ("update", kept)


@pytest.mark.filterwarnings("ignore:Dialect sqlite")
async def test_groups_go_by_what_is_stored(database: Database, layer: Recording) -> None:
    bind(database.model(Item), FIELDS, lambda item: [f"cost-{item.price}"])
    await database.run_in_session(adding(price=Decimal("1.999")))
    assert [group for group, *_ in layer.take()] == ["cost-2.00"]


@pytest.mark.filterwarnings("ignore:Dialect sqlite")
async def test_what_is_rolled_back_is_not_told(database: Database, layer: Recording) -> None:
    bind(database.model(Item), FIELDS, lambda item: ["all"])

    def work(session: Session) -> None:
        savepoint = session.begin_nested()
        session.add(Item(name="savepoint"))
        session.flush()
        savepoint.rollback()
        session.add(Item(name="kept"))

    await database.run_in_session(work)
    assert [data["name"] for _, _, data in layer.take()] == ["kept"]


def by_bulk_save(session: Session) -> None:
    session.bulk_save_objects([Item(name="x")])


def by_bulk_insert(session: Session) -> None:
    session.bulk_insert_mappings(Item, [{"name": "x"}])


def by_bulk_update(session: Session) -> None:
    session.bulk_update_mappings(Item, [{"id": 1, "name": "x"}])


def by_query_update(session: Session) -> None:
    session.query(Item).filter_by(id=1).update({"name": "x"})


def by_query_delete(session: Session) -> None:
    session.query(Item).filter_by(id=1).delete()


def by_text(sql: str) -> Callable[[Session], None]:
    def work(session: Session) -> None:
        session.execute(text(sql))

    work.__name__ = sql
    return work


def by_connection(session: Session) -> None:
    session.connection().execute(insert(Item).values(name="x"))


def by_many(session: Session) -> None:
    session.execute(insert(Item), [{"name": "x"}, {"name": "y"}])


def by_driver(session: Session) -> None:
    session.connection().exec_driver_sql("DELETE FROM items")


UNTOLD: list[Callable[[Session], None]] = [
    by_bulk_save, by_bulk_insert, by_bulk_update, by_query_update, by_query_delete, by_connection, by_many, by_driver,
    by_text("UPDATE items SET name = 'x'"), by_text('insert into "items" (name) values (1)'),
    by_text("INSERT OR IGNORE INTO main.items (name) VALUES ('x')"), by_text("DELETE FROM items"),
    by_text("REPLACE INTO items (id, name) VALUES (1, 'x')"),
    by_text("WITH x AS (SELECT 1) UPDATE items SET name = 'x'"),
]  # fmt: skip


@pytest.mark.parametrize("work", UNTOLD, ids=lambda work: work.__name__)
@pytest.mark.filterwarnings("ignore:Dialect sqlite")
async def test_nothing_is_untold_in_silence(
    database: Database, layer: Recording, work: Callable[[Session], None]
) -> None:
    bind(database.model(Item), FIELDS, lambda item: ["all"])
    pk = await database.run_in_session(adding(name="before"))
    layer.take()
    with pytest.raises(
        RuntimeError, match="this statement changes items, and the clients of Item's bindings"
    ):
        await database.run_in_session(work)

    def look(session: Session) -> str:
        item = session.get(Item, pk)
        assert item is not None
        return item.name

    assert await database.run_in_session(look) == "before"  # nothing was changed
    assert layer.take() == []


@pytest.mark.filterwarnings("ignore:Dialect sqlite")
async def test_what_nobody_need_know_goes(database: Database, layer: Recording) -> None:
    bind(database.model(Item), FIELDS, lambda item: ["all"])

    def work(session: Session) -> None:
        quiet = {"triochan_untold": True}
        session.connection(execution_options=quiet)
        session.bulk_save_objects([Item(name="x")])
        session.execute(text("UPDATE items SET name = 'x'"), execution_options=quiet)
        session.execute(update(Other).values(name="x"))

    await database.run_in_session(work)
    assert layer.take() == []


@pytest.mark.filterwarnings("ignore:Dialect sqlite")
async def test_other_tables_and_tables_that_nobody_is_bound_to_go(
    database: Database, layer: Recording
) -> None:
    database.model(Item)  # a model without a binding
    await database.run_in_session(by_bulk_save)
    bind(database.model(Other), ["name"], lambda other: ["all"])
    await database.run_in_session(by_text("UPDATE items SET name = 'others'"))
    assert layer.take() == []


@pytest.mark.filterwarnings("ignore:Dialect sqlite")
async def test_a_listener_of_the_programs_own_within_a_flush_goes(
    database: Database, layer: Recording
) -> None:
    bind(database.model(Item), FIELDS, lambda item: ["all"])

    def stamp(mapper: Any, connection: Any, item: Item) -> None:
        connection.execute(text("UPDATE items SET stamped = 'by SQL' WHERE id = :id"), {"id": item.id})

    event.listen(Item, "after_insert", stamp)
    try:
        await database.run_in_session(adding(name="x"))
    finally:
        event.remove(Item, "after_insert", stamp)
    [(_, _, data)] = layer.take()
    assert data["stamped"] == "by SQL"


# -- one that can't be told of


@attrs.define
class Measure:
    value: float
    id: int | None = None


async def lists(binding: type[WebsocketBinding], **settings: Any) -> list[Any]:
    class Demultiplexer(WebsocketDemultiplexer):
        consumers: ClassVar[dict[str, Any]] = {"s": binding.consumer}
        groups = ("all",)

        async def connect(self, message: Message, **kwargs: Any) -> None:
            await binding.send_list(message, ["all"])

    async with WSClient([route_class(Demultiplexer)], settings=Settings(**settings)) as socket:
        payload = (await socket.receive_json())["payload"]
    assert payload["action"] == "list"
    return [item["pk"] for item in payload["items"]]


@pytest.mark.parametrize("bad", [math.inf, math.nan, object(), {1: 1, "1": 2}, "\ud800", Decimal("NaN")])
async def test_one_bad_row_keeps_nobody_from_the_list(bad: Any, caplog: pytest.LogCaptureFixture) -> None:
    measures = Collection(Measure)
    for value in (1.0, bad, 3.0):
        await measures.insert(Measure(value))
    binding = bind(measures, ["value"], lambda measure: ["all"])
    assert await lists(binding) == [1, 3]
    [record] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "send_list left out" in record.getMessage()
    assert record.getMessage().endswith(" 2")


async def test_who_sees_a_row_may_raise(caplog: pytest.LogCaptureFixture) -> None:
    measures = Collection(Measure)
    for value in (1.0, 0.0):
        await measures.insert(Measure(value))
    binding = bind(measures, ["value"], lambda measure: ["all"] if 1 / measure.value else [])
    assert await lists(binding) == [1]


async def test_a_line_for_all_that_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    measures = Collection(Measure)
    for _ in range(8):
        await measures.insert(Measure(math.inf))
    binding = bind(measures, ["value"], lambda measure: ["all"])
    assert await lists(binding) == []
    [record] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "inf is no number in JSON" in record.getMessage()
    assert record.getMessage().endswith(".measure 1, 2, 3, 4, 5 and 3 more")
    assert record.exc_info is None


UNREADABLE = [
    "id, at) VALUES (2, 'soon'",
    "id, extra) VALUES (2, '{'",
    "id, name) VALUES (2, CAST(X'FF' AS TEXT)",
]


@pytest.mark.parametrize("row", UNREADABLE)
async def test_a_row_that_can_not_be_read_keeps_nobody_from_the_list(
    database: Database, row: str, caplog: pytest.LogCaptureFixture
) -> None:
    binding = bind(database.model(Item), ["stamped"], lambda item: ["all"])
    for pk in (1, 3):
        await database.run_in_session(adding(id=pk))
    with database.engine.begin() as connection:
        values = "0.00" if "name" in row else "'', 0.00"
        columns = "price" if "name" in row else "name, price"
        connection.exec_driver_sql(f"INSERT INTO items ({columns}, {row.replace('(2', f'({values}, 2')})")
    assert await lists(binding) == [1, 3]
    [record] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "item has not what can't be read" in record.getMessage()
    assert record.getMessage().endswith(": 2")


async def test_a_list_that_the_database_refuses_is_an_error(database: Database) -> None:
    source = database.model(Item)
    await database.run_in_session(adding(id=1))
    with database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE items DROP COLUMN stamped")
    with pytest.raises(OperationalError, match="no such column"):
        await source.collect(lambda item: item.id)


async def test_an_error_names_the_row(database: Database, layer: Recording) -> None:
    bind(database.model(Item), ["weight"], lambda item: ["all"])
    with pytest.raises(OverflowError, match="inf is no number in JSON") as caught:
        await database.run_in_session(adding(id=7, weight=math.inf))
    [note] = caught.value.__notes__
    assert note.endswith("Bound's create of test_what_is_told.item 7")
    assert layer.take() == []


async def test_what_follows_bindings_that_have_raised_is_not_untold(
    database: Database, layer: Recording
) -> None:
    def names(item: Item) -> list[str]:
        return ["all"] if item.name != "bad" else 1 // 0  # type: ignore[return-value]

    pk = await database.run_in_session(adding(name="bad"))
    bind(database.model(Item), ["name"], names)

    def work(session: Session) -> None:
        item = session.get_one(Item, pk)
        item.name = "good"
        with pytest.raises(ZeroDivisionError):
            session.flush()
        session.connection().execute(text("DELETE FROM items"))

    with pytest.raises(RuntimeError, match="this statement changes items"):
        await database.run_in_session(work)


async def test_a_bad_row_can_be_mended_and_deleted(
    layer: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    measures = Collection(Measure)
    for _ in range(2):
        await measures.insert(Measure(math.inf))
    bind(measures, ["value"], lambda measure: ["all"])
    await measures.update(1, value=1.5)
    await measures.delete(2)
    assert layer.take() == [("all", "update", {"value": 1.5}), ("all", "delete", {})]
    with pytest.raises(OverflowError, match="inf is no number in JSON"):
        await measures.update(1, value=math.inf)  # what the program itself makes is the program's to hear of
    assert measures[1].value == 1.5


# -- our own size is not the peer's slowness


@attrs.define
class Text:
    text: str
    id: int | None = None


@pytest.mark.parametrize("limit", [2**20, 10_000])
async def test_a_list_larger_than_the_outbox_arrives(limit: int, autojump_clock: MockClock) -> None:
    texts = Collection(Text)
    for _ in range(30):
        await texts.insert(Text("x" * 100_000))
    binding = bind(texts, ["text"], lambda each: ["all"])
    assert await lists(binding, outbox_limit=limit) == list(range(1, 31))


async def test_changes_behind_the_list_arrive_too(autojump_clock: MockClock) -> None:
    texts = Collection(Text)
    for _ in range(30):
        await texts.insert(Text("x" * 100_000))
    binding = bind(texts, ["text"], lambda each: ["all"])

    class Demultiplexer(WebsocketDemultiplexer):
        consumers: ClassVar[dict[str, Any]] = {"s": binding.consumer}
        groups = ("all",)

        async def connect(self, message: Message, **kwargs: Any) -> None:
            await binding.send_list(message, ["all"])
            await texts.update(1, text="changed in connect")

    async with Client([route_class(Demultiplexer)]) as client, client.websocket("/") as socket:
        await texts.update(2, text="changed behind it")
        payloads = [(await socket.receive_json())["payload"] for _ in range(3)]
        assert [each["action"] for each in payloads] == ["list", "update", "update"]
        assert [each["data"]["text"] for each in payloads[1:]] == ["changed in connect", "changed behind it"]

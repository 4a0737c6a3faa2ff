"""What the database takes along with a delete is told too, or the statement is refused."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import ForeignKey, ForeignKeyConstraint, create_engine, delete, insert, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

from triochan.binding.cascades import Cascades
from triochan.binding.sqlalchemy import Database
from triochan.binding.websockets import WebsocketBinding
from triochan.content import decode_json
from triochan.layers import MemoryLayer


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)


class Shelf(Base):
    """Has a key of two columns, and no binding."""

    __tablename__ = "shelves"
    room: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("authors.id", ondelete="CASCADE"))


class Book(Base):
    __tablename__ = "books"
    __table_args__ = (
        ForeignKeyConstraint(["room", "number"], ["shelves.room", "shelves.number"], ondelete="cascade"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("authors.id", ondelete="CASCADE"))
    editor_id: Mapped[int | None] = mapped_column(ForeignKey("authors.id", ondelete="SET NULL"))
    part_of: Mapped[int | None] = mapped_column(ForeignKey("books.id", ondelete="CASCADE"))
    room: Mapped[int | None]
    number: Mapped[int | None]


class Reader(Base):
    """Refers to books, but no delete comes through it to them."""

    __tablename__ = "readers"
    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int | None] = mapped_column(ForeignKey("books.id", ondelete="CASCADE"))


class Recording(MemoryLayer):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, int, Any]] = []

    async def group_send(self, group: str, content: dict[str, Any], exclude: str | None = None) -> None:
        payload = decode_json(content["text"])["payload"]
        self.sent.append((payload["action"], payload["pk"], payload["data"]["editor_id"]))

    def take(self) -> list[tuple[str, int, Any]]:
        sent, self.sent = sorted(self.sent, key=lambda each: each[:2]), []
        return sent


@pytest.fixture
async def layer() -> AsyncIterator[Recording]:
    recording = Recording()
    async with recording.running():
        yield recording


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database("sqlite://")
    yield with_books(database)
    database.close()


def with_books(database: Database) -> Database:
    Base.metadata.create_all(database.engine)

    class BookBinding(WebsocketBinding):
        model = database.model(Book)
        stream = "books"
        fields = ("editor_id",)

        @classmethod
        def group_names(cls, instance: Book) -> list[str]:
            return ["all"]

    return database


def seed(session: Session) -> None:
    session.add_all([Author(id=1), Author(id=2)])
    session.flush()
    session.add(Shelf(room=1, number=1, author_id=1))
    session.add(Shelf(room=1, number=2, author_id=2))
    session.flush()
    session.add_all(
        [
            Book(id=1, author_id=1, editor_id=2),
            Book(id=2, author_id=2, editor_id=1),
            Book(id=3, author_id=2, part_of=1),
            Book(id=4, author_id=2, part_of=3),
            Book(id=5, room=1, number=1),
            Book(id=6, room=1, number=2),
        ]
    )


def removing(kind: type[Any], key: Any) -> Callable[[Session], None]:
    return lambda session: session.delete(session.get_one(kind, key))


async def test_what_goes_along_is_told(database: Database, layer: Recording) -> None:
    await database.run_in_session(seed)
    layer.take()
    await database.run_in_session(removing(Author, 1))
    assert layer.take() == [
        ("delete", 1, 2),  # by its author
        ("delete", 3, None),  # a part of it
        ("delete", 4, None),  # and a part of that
        ("delete", 5, None),  # by the shelf, whose key has two columns
        ("update", 2, None),  # its editor is gone
    ]
    await database.run_in_session(removing(Shelf, (1, 2)))
    assert layer.take() == [("delete", 6, None)]


async def test_a_bound_instance_takes_its_parts_along(database: Database, layer: Recording) -> None:
    await database.run_in_session(seed)
    layer.take()
    await database.run_in_session(removing(Book, 1))
    assert layer.take() == [("delete", 1, 2), ("delete", 3, None), ("delete", 4, None)]


async def test_a_loop_of_references_ends(database: Database, layer: Recording) -> None:
    def loop(session: Session) -> None:
        session.add_all([Book(id=1), Book(id=2, part_of=1)])
        session.flush()
        session.get_one(Book, 1).part_of = 2

    await database.run_in_session(loop)
    layer.take()
    await database.run_in_session(removing(Book, 2))
    assert layer.take() == [("delete", 1, None), ("delete", 2, None)]


async def test_many_are_read_in_pieces(database: Database, layer: Recording) -> None:
    def many(session: Session) -> None:
        session.add_all([Author(id=1), *(Book(id=number, author_id=1) for number in range(1, 451))])

    await database.run_in_session(many)
    layer.take()
    await database.run_in_session(removing(Author, 1))
    assert layer.take() == [("delete", number, None) for number in range(1, 451)]


async def test_what_is_changed_and_then_taken_along_is_a_delete(database: Database, layer: Recording) -> None:
    await database.run_in_session(seed)
    layer.take()

    def work(session: Session) -> None:
        session.get_one(Book, 5).editor_id = 2
        session.flush()
        session.delete(session.get_one(Author, 1))

    await database.run_in_session(work)
    assert ("delete", 5, None) in layer.take()  # as its groups knew it


async def test_what_is_rolled_back_is_not_told(database: Database, layer: Recording) -> None:
    await database.run_in_session(seed)
    layer.take()

    def work(session: Session) -> None:
        savepoint = session.begin_nested()
        session.delete(session.get_one(Author, 1))
        session.flush()
        savepoint.rollback()
        session.add(Book(id=9))

    await database.run_in_session(work)
    assert layer.take() == [("create", 9, None)]


async def test_a_database_that_does_not_look_at_foreign_keys(layer: Recording) -> None:
    """As SQLite is without a PRAGMA: nothing goes along, and nothing is told."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    database = with_books(Database(engine))
    await database.run_in_session(seed)
    layer.take()
    await database.run_in_session(removing(Author, 1))
    assert layer.take() == []
    database.close()


DELETES: list[Any] = [
    delete(Author), delete(Shelf).where(Shelf.room == 1), text("DELETE FROM authors"),
    text("REPLACE INTO authors (id) VALUES (1)"),
]  # fmt: skip


@pytest.mark.parametrize("statement", DELETES, ids=str)
@pytest.mark.parametrize("by", ["execute", "connection"])
async def test_a_statement_that_takes_along_is_refused(
    database: Database, layer: Recording, statement: Any, by: str
) -> None:
    await database.run_in_session(seed)
    layer.take()

    def work(session: Session) -> None:
        (session if by == "execute" else session.connection()).execute(statement)

    with pytest.raises(RuntimeError, match=re.escape("what bindings tell of goes with it (ON DELETE)")):
        await database.run_in_session(work)
    quiet = statement.execution_options(triochan_untold=True)
    await database.run_in_session(lambda session: session.execute(quiet) and None)
    assert layer.take() == []


async def test_a_statement_that_takes_nothing_along_goes(database: Database, layer: Recording) -> None:
    await database.run_in_session(seed)
    layer.take()

    def work(session: Session) -> None:
        session.execute(insert(Author).values(id=7))
        session.execute(text("UPDATE authors SET id = 8 WHERE id = 7"))
        session.execute(delete(Reader))

    await database.run_in_session(work)
    assert layer.take() == []


def test_the_ways_to_a_table() -> None:
    ways = Cascades.to([Base.metadata.tables["books"]])
    assert [name for name in Base.metadata.tables if ways.start_at(name)] == ["authors", "shelves", "books"]

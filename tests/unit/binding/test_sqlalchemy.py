"""SQLAlchemy's models in bindings: what a commit tells, what a rollback doesn't, savepoints, threads and bad input."""

from __future__ import annotations

import contextlib
import datetime
import enum
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import trio

from triochan.binding import CREATE, DELETE, UPDATE
from triochan.binding.websockets import WebsocketBinding
from triochan.exceptions import ImproperlyConfigured
from triochan.generic.websockets import WebsocketDemultiplexer
from triochan.layers import MemoryLayer
from triochan.test import Client, TestWebsocket

sa = pytest.importorskip("sqlalchemy", reason="pip install 'triochan[sqlalchemy]'")
orm = pytest.importorskip("sqlalchemy.orm")
pytestmark = pytest.mark.engine

from sqlalchemy import (  # noqa: E402
    JSON,
    Column,
    ForeignKey,
    String,
    Table,
    create_engine,
    delete,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError  # noqa: E402
from sqlalchemy.orm import (  # noqa: E402
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    mapped_column,
    relationship,
    validates,
)

from triochan.binding.sqlalchemy import Database  # noqa: E402


class Base(DeclarativeBase):
    pass


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Blog(Base):
    __tablename__ = "blogs"
    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(20), unique=True)
    posts: Mapped[list[Post]] = relationship(back_populates="blog")


tagged = Table(
    "tagged",
    Base.metadata,
    Column("post_id", ForeignKey("posts.id"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id"), primary_key=True),
)


class Tag(Base):
    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(20))
    secret: Mapped[str] = mapped_column(default="")
    stars: Mapped[int | None]
    mood: Mapped[Mood] = mapped_column(default=Mood.GOOD)
    kind: Mapped[Literal["a", "b"]] = mapped_column(String, default="a")
    at: Mapped[datetime.datetime] = mapped_column(default=datetime.datetime(2024, 5, 31))
    extra = mapped_column(JSON, nullable=True)
    blog_id: Mapped[int | None] = mapped_column(ForeignKey("blogs.id"))
    blog: Mapped[Blog | None] = relationship(back_populates="posts")
    tags: Mapped[list[Tag]] = relationship(secondary=tagged)

    @validates("title")
    def validate_title(self, key: str, title: str) -> str:
        if title.isupper():
            raise ValueError("do not shout")
        return title


Post.shout = column_property(sa.func.upper(Post.title))


class Pair(Base):
    __tablename__ = "pairs"
    a: Mapped[int] = mapped_column(primary_key=True)
    b: Mapped[int] = mapped_column(primary_key=True)


FIELDS = ["title", "stars", "mood", "kind", "at", "extra", "blog_id"]


class Recording(MemoryLayer):
    """Notes what groups are sent, in short."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, str, Any, str]] = []

    async def group_send(self, group: str, content: dict[str, Any], exclude: str | None = None) -> None:
        from triochan.content import decode_json

        payload = decode_json(content["text"])["payload"]
        self.sent.append((group, payload["action"], payload["pk"], payload["data"].get("title", "")))

    def take(self) -> list[tuple[str, str, Any, str]]:
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture(params=["memory", "file"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    database = Database("sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path}/test.sqlite3")
    Base.metadata.create_all(database.engine)
    yield database
    database.close()


@pytest.fixture
async def layer() -> AsyncIterator[Recording]:
    recording = Recording()
    async with recording.running():
        yield recording


def bind(database: Database, names: Any = lambda post: ["all"], **attributes: Any) -> type[WebsocketBinding]:
    body = {
        "model": database.model(attributes.pop("cls", Post)),
        "stream": "posts",
        "fields": FIELDS,
        "group_names": classmethod(lambda cls, instance: names(instance)),
        "has_permission": lambda self, user, action, pk: True,
    }
    return type("PostBinding", (WebsocketBinding,), {**body, **attributes})


async def add(database: Database, **values: Any) -> int:
    def work(session: Session) -> int:
        post = Post(**values)
        session.add(post)
        session.flush()
        return post.id

    return await database.run_in_session(work)


# -- commits


async def test_create_update_and_delete(database: Database, layer: Recording) -> None:
    bind(database)
    pk = await add(database, title="one")
    assert layer.take() == [("all", CREATE, pk, "one")]

    def change(session: Session) -> Post:
        post = session.get_one(Post, pk)
        post.title = "two"
        return post

    post = await database.run_in_session(change)
    assert post.title == "two"  # it can be read when the session is closed
    assert layer.take() == [("all", UPDATE, pk, "two")]
    await database.run_in_session(lambda session: session.delete(session.get_one(Post, pk)))
    assert layer.take() == [("all", DELETE, pk, "two")]


async def test_the_message(database: Database) -> None:
    bound = bind(database, model_label="blog.post")
    async with socket(bound) as websocket:
        pk = await add(database, title="one", extra=[1, {"a": None}], secret="hidden")
        frame = await websocket.receive_json()
    assert frame == {
        "stream": "posts",
        "payload": {
            "action": CREATE,
            "pk": pk,
            "model": "blog.post",
            "data": {
                "title": "one",
                "stars": None,
                "mood": "good",
                "kind": "a",
                "at": "2024-05-31T00:00:00",
                "extra": [1, {"a": None}],
                "blog_id": None,
            },
        },
    }


async def test_one_message_for_a_transaction(database: Database, layer: Recording) -> None:
    bind(database)

    def work(session: Session) -> None:
        made, gone = Post(title="a"), Post(title="never seen")
        session.add_all([made, gone])
        session.flush()
        made.title = "b"
        session.flush()
        made.title = "c"
        session.delete(gone)

    await database.run_in_session(work)
    [(group, action, pk, title)] = layer.take()
    assert (group, action, title) == ("all", CREATE, "c")

    def again(session: Session) -> None:
        post = session.get_one(Post, pk)
        for title in ("d", "e"):
            post.title = title
            session.flush()
        post.title = "e"  # no change

    await database.run_in_session(again)
    assert layer.take() == [("all", UPDATE, pk, "e")]
    await database.run_in_session(lambda session: setattr(session.get_one(Post, pk), "title", "e"))
    assert layer.take() == []


async def test_deleted_and_made_anew_is_an_update(database: Database, layer: Recording) -> None:
    bind(database)
    pk = await add(database, title="one")
    layer.take()

    def switch(session: Session, flush: bool) -> None:
        session.delete(session.get_one(Post, pk))
        if flush:
            session.flush()
        session.add(Post(id=pk, title=f"two {flush}"))

    for flush in (False, True):
        await database.run_in_session(switch, flush)
        assert layer.take() == [("all", UPDATE, pk, f"two {flush}")]


async def test_another_key_is_another_object(database: Database, layer: Recording) -> None:
    bind(database)
    pk = await add(database, title="one")
    layer.take()
    await database.run_in_session(lambda session: setattr(session.get_one(Post, pk), "id", 77))
    assert sorted(layer.take()) == [("all", CREATE, 77, "one"), ("all", DELETE, pk, "one")]


async def test_groups_are_compared_as_they_were_and_are(database: Database, layer: Recording) -> None:
    bind(database, lambda post: [f"blog.{post.blog.slug}"] if post.blog else [])

    def prepare(session: Session) -> None:
        session.add_all([Blog(id=1, slug="one"), Blog(id=2, slug="two"), Post(id=1, title="a", blog_id=1)])

    await database.run_in_session(prepare)
    assert layer.take() == [("blog.one", CREATE, 1, "a")]

    def move(session: Session, to: int | None) -> None:
        post = session.get_one(Post, 1)
        post.title = f"in {to}"
        post.blog = None if to is None else session.get_one(Blog, to)

    await database.run_in_session(move, 2)
    assert layer.take() == [("blog.one", DELETE, 1, "a"), ("blog.two", CREATE, 1, "in 2")]

    # The blog's name changes together with the post, and the group with it: the one before is the one that is left.
    def rename(session: Session) -> None:
        post = session.get_one(Post, 1)
        session.get_one(Blog, 2).slug = "zwei"
        post.title = "b"

    await database.run_in_session(rename)
    assert layer.take() == [("blog.two", DELETE, 1, "in 2"), ("blog.zwei", CREATE, 1, "b")]

    # A change that only the flush finds out about: the blog goes, and its posts are in none.
    await database.run_in_session(lambda session: session.delete(session.get_one(Blog, 2)))
    assert layer.take() == [("blog.zwei", DELETE, 1, "b")]


async def test_many_to_many(database: Database, layer: Recording) -> None:
    bind(database, lambda post: [f"tag.{tag.name}" for tag in post.tags])
    pk = await add(database, title="a", tags=[Tag(id=1, name="x"), Tag(id=2, name="y")])
    assert layer.take() == [("tag.x", CREATE, pk, "a"), ("tag.y", CREATE, pk, "a")]

    def untag(session: Session) -> None:
        post = session.get_one(Post, pk)
        post.tags.pop(0)

    await database.run_in_session(untag)
    assert layer.take() == [("tag.x", DELETE, pk, "a"), ("tag.y", UPDATE, pk, "a")]


# -- no commits


async def test_nothing_is_told_of_what_is_rolled_back(database: Database, layer: Recording) -> None:
    bind(database)
    pk = await add(database, title="one")
    layer.take()

    def fail(session: Session) -> None:
        session.get_one(Post, pk).title = "two"
        session.add(Post(title="three"))
        session.flush()
        raise LookupError

    with pytest.raises(LookupError):
        await database.run_in_session(fail)

    def rollback(session: Session) -> None:
        session.get_one(Post, pk).title = "two"
        session.flush()
        session.rollback()

    await database.run_in_session(rollback)
    with pytest.raises(IntegrityError):
        await database.run_in_session(lambda session: session.add(Post(title="x", blog_id=99)))
    assert layer.take() == []
    # And nothing of it is left behind.
    await database.run_in_session(lambda session: setattr(session.get_one(Post, pk), "title", "four"))
    assert layer.take() == [("all", UPDATE, pk, "four")]


async def test_what_is_committed_is_told_whatever_comes_after(database: Database, layer: Recording) -> None:
    bind(database)

    def work(session: Session) -> None:
        session.add(Post(id=1, title="committed"))
        session.commit()
        session.add(Post(id=2, title="not"))
        session.flush()
        raise LookupError

    with pytest.raises(LookupError):
        await database.run_in_session(work)
    assert layer.take() == [("all", CREATE, 1, "committed")]


async def test_a_binding_that_raises_stops_the_change(database: Database, layer: Recording) -> None:
    def names(post: Post) -> list[str]:
        if post.title == "bad":
            raise LookupError
        return ["all"]

    bind(database, names)
    with pytest.raises(LookupError):
        await add(database, title="bad")
    assert await database.run_in_session(lambda session: list(session.scalars(select(Post)))) == []
    assert layer.take() == []


async def test_what_was_rolled_back_is_looked_at_anew(database: Database, layer: Recording) -> None:
    bind(database, lambda post: [post.kind])
    pk = await add(database, title="one")
    layer.take()

    def work(session: Session) -> None:
        post = session.get_one(Post, pk)
        post.title = "two"
        session.flush()
        session.rollback()
        with Session(database.engine) as other, other.begin():  # of which nobody is told
            other.get_one(Post, pk).kind = "b"
        post.title = "three"

    await database.run_in_session(work)
    assert layer.take() == [("b", UPDATE, pk, "three")]


# -- savepoints


async def test_savepoints(database: Database, layer: Recording) -> None:
    bind(database)
    await add(database, id=1, title="one")
    layer.take()

    def work(session: Session) -> None:
        post = session.get_one(Post, 1)
        post.title = "before"
        with session.begin_nested():
            session.add(Post(id=2, title="kept"))
            post.title = "kept"
        with contextlib.suppress(LookupError), session.begin_nested():
            post.title = "lost"
            session.add(Post(id=3, title="lost"))
            session.flush()
            raise LookupError
        with session.begin_nested():
            session.add(Post(id=4, title="kept too"))
            with session.begin_nested() as inner:
                session.add(Post(id=5, title="lost too"))
                session.flush()
                inner.rollback()
            session.add(Post(id=6, title="kept as well"))

    await database.run_in_session(work)
    assert layer.take() == [
        ("all", UPDATE, 1, "kept"),
        ("all", CREATE, 2, "kept"),
        ("all", CREATE, 4, "kept too"),
        ("all", CREATE, 6, "kept as well"),
    ]

    def lose_all(session: Session) -> None:
        with session.begin_nested():
            session.get_one(Post, 1).title = "released"
        raise LookupError

    with pytest.raises(LookupError):
        await database.run_in_session(lose_all)
    assert layer.take() == []
    stored = await database.run_in_session(lambda session: session.get_one(Post, 1).title)
    assert stored == "kept"


async def test_a_refused_row_in_a_savepoint(database: Database, layer: Recording) -> None:
    bind(database)

    def work(session: Session) -> None:
        session.add(Post(id=1, title="one"))
        for blog in (99, None):
            try:
                with session.begin_nested():
                    session.add(Post(id=2, title=f"blog {blog}", blog_id=blog))
            except IntegrityError:
                pass

    await database.run_in_session(work)
    assert layer.take() == [("all", CREATE, 1, "one"), ("all", CREATE, 2, "blog None")]


# -- threads and tasks


async def test_sessions_run_in_threads_and_sends_in_trio(database: Database, layer: Recording) -> None:
    main = threading.get_ident()
    places: list[bool] = []
    send = layer.group_send

    async def group_send(group: str, content: dict[str, Any], exclude: str | None = None) -> None:
        places.append(threading.get_ident() == main)
        await send(group, content)

    def group_names(post: Post) -> list[str]:
        places.append(threading.get_ident() != main)
        return ["all"]

    layer.group_send = group_send  # type: ignore[method-assign]
    bind(database, group_names)
    await add(database, title="one")
    assert len(places) >= 2
    assert all(places)


async def test_a_cancelled_one_commits_and_tells(database: Database, layer: Recording) -> None:
    bind(database)
    started = trio.Event()

    def slow(session: Session) -> None:
        session.add(Post(id=1, title="one"))
        trio.from_thread.run_sync(started.set)
        go_on.wait(5)

    go_on = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.run_in_session, slow)
        await started.wait()
        nursery.cancel_scope.cancel()
        go_on.set()
    assert layer.take() == [("all", CREATE, 1, "one")]


async def test_messages_are_in_the_order_of_the_commits(database: Database, layer: Recording) -> None:
    bind(database)
    pk = await add(database, title="start")
    layer.take()

    def change(session: Session, number: int) -> None:
        session.get_one(Post, pk).title = str(number)

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(database.run_in_session, change, number)
    told = [title for *_, title in layer.take()]
    assert len(told) == 30
    assert told[-1] == await database.run_in_session(lambda session: session.get_one(Post, pk).title)


@pytest.fixture
def side_by_side(tmp_path: Path) -> Iterator[Database]:
    """A database whose sessions run side by side: readers with writers, and writers one after the other."""
    engine = create_engine(f"sqlite:///{tmp_path}/test.sqlite3")

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")

    @event.listens_for(engine, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN" if reading.is_set() else "BEGIN IMMEDIATE")

    reading = threading.Event()
    database = Database(engine, threads=4)
    database.reading = reading  # type: ignore[attr-defined]
    Base.metadata.create_all(engine)
    yield database
    database.close()


async def test_the_order_holds_for_sessions_side_by_side(side_by_side: Database, layer: Recording) -> None:
    bind(side_by_side)
    pk = await add(side_by_side, title="start")
    order: list[str] = []

    def change(session: Session, number: int) -> None:
        session.get_one(Post, pk).title = str(number)
        session.flush()
        order.append(str(number))  # nobody else can write until this is committed

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(side_by_side.run_in_session, change, number)
    assert [title for *_, title in layer.take()] == ["start", *order]


async def test_a_commit_that_is_held_up_keeps_its_place(side_by_side: Database, layer: Recording) -> None:
    bind(side_by_side)
    pk = await add(side_by_side, title="start")
    layer.take()
    committed, overtaken = threading.Event(), threading.Event()

    def hold_up(session: Session) -> None:
        if committed.is_set():
            overtaken.set()
        committed.set()
        overtaken.wait(0.3)

    def change(session: Session, title: str) -> None:
        session.get_one(Post, pk).title = title

    sa.event.listen(side_by_side._sessions, "after_commit", hold_up, insert=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(side_by_side.run_in_session, change, "first")
        await trio.to_thread.run_sync(committed.wait)
        nursery.start_soon(side_by_side.run_in_session, change, "second")
    assert [title for *_, title in layer.take()] == ["first", "second"]


async def test_a_list_is_not_overtaken(side_by_side: Database) -> None:
    reading, seen, changed = side_by_side.reading, threading.Event(), threading.Event()  # type: ignore[attr-defined]

    def names(post: Post) -> list[str]:
        if reading.is_set() and not seen.is_set():
            seen.set()  # what was read is old as soon as this is
            changed.wait(5)
        return ["all"]

    bound = bind(side_by_side, names, fields=["title"])
    await add(side_by_side, id=1, title="old")

    class Demultiplexer(WebsocketDemultiplexer):
        groups = ["all"]

        async def connect(self, message: Any, **kwargs: Any) -> None:
            reading.set()
            await bound.send_list(message, self.groups)

    def change(session: Session) -> None:
        session.get_one(Post, 1).title = "new"
        session.commit()
        changed.set()

    async def change_meanwhile() -> None:
        await trio.to_thread.run_sync(seen.wait)
        await side_by_side.run_in_session(change)

    async with Client([Demultiplexer.as_route()]) as client, trio.open_nursery() as nursery:
        nursery.start_soon(change_meanwhile)
        async with client.websocket("/") as websocket:
            with trio.fail_after(5):
                first, second = [(await websocket.receive_json())["payload"] for _ in range(2)]
    assert (first["action"], first["items"][0]["data"]) == ("list", {"title": "old"})
    assert (second["action"], second["data"]) == (UPDATE, {"title": "new"})


async def test_without_a_server_there_is_nobody_to_tell(database: Database) -> None:
    bind(database)
    await add(database, title="one")


async def test_an_async_function_is_refused(database: Database) -> None:
    async def work(session: Session) -> None: ...

    with pytest.raises(TypeError, match="is async; a session blocks"):
        await database.run_in_session(work)  # type: ignore[unused-coroutine]


async def test_a_statement_for_many_rows_is_refused_unless_nobody_need_know(
    database: Database, layer: Recording
) -> None:
    await database.run_in_session(
        lambda session: session.execute(update(Post).values(title="nobody is bound"))
    )
    bind(database)
    pk = await add(database, title="one")
    layer.take()
    table = Post.__table__
    assert isinstance(table, Table)
    statements = (
        update(Post).values(title="x"),
        delete(Post),
        insert(Post).values(title="x"),
        update(table).values(title="x"),
    )
    for statement in statements:
        with pytest.raises(RuntimeError, match="the clients of Post's bindings would not be told"):
            await database.run_in_session(Session.execute, statement)
        untold = statement.execution_options(triochan_untold=True)
        await database.run_in_session(Session.execute, untold)
    await database.run_in_session(lambda session: session.execute(update(Tag).values(name="x")))
    assert layer.take() == []
    assert pk


def test_what_can_not_be_bound() -> None:
    database = Database("sqlite://")
    for cls, complaint in ((Pair, "a primary key of one column"), (int, "takes a mapped class")):
        with pytest.raises(ImproperlyConfigured, match=complaint):
            database.model(cls)
    with pytest.raises(ImproperlyConfigured, match="neither fields nor exclude"):
        bind(database, fields=None)
    with pytest.raises(ImproperlyConfigured, match="has no field 'tags'"):
        bind(database, fields=["tags"])
    from sqlalchemy.pool import SingletonThreadPool

    with pytest.raises(ImproperlyConfigured, match="StaticPool"):
        Database(create_engine("sqlite://", poolclass=SingletonThreadPool))


def test_it_is_imported_only_when_asked_for() -> None:
    look = "import sys, triochan, triochan.binding.websockets as _; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


# -- inbound


@asynccontextmanager
async def socket(bound: type[WebsocketBinding]) -> AsyncIterator[TestWebsocket]:
    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"posts": bound.consumer}
        groups = ["all"]

    async with Client([Demultiplexer.as_route()]) as client, client.websocket("/") as websocket:
        yield websocket


async def ask(websocket: TestWebsocket, **payload: Any) -> dict[str, Any]:
    await websocket.send_json({"stream": "posts", "payload": payload})
    with trio.fail_after(5):
        return await websocket.receive_json()  # type: ignore[no-any-return]


async def test_inbound(database: Database) -> None:
    async with socket(bind(database)) as websocket:
        made = (await ask(websocket, action=CREATE, data={"title": "one", "at": "2024-01-01T10:00:00"}))[
            "payload"
        ]
        assert (made["action"], made["data"]["at"]) == (CREATE, "2024-01-01T10:00:00")
        data = {"title": "two", "stars": 5, "mood": "bad", "kind": "b", "extra": {"free": "form"}}
        changed = (await ask(websocket, action=UPDATE, pk=made["pk"], data=data))["payload"]
        assert changed == {**made, "action": UPDATE, "data": {**made["data"], **data}}
        gone = (await ask(websocket, action=DELETE, pk=made["pk"]))["payload"]
        assert gone == {**changed, "action": DELETE}


async def test_bad_input_is_answered_and_changes_nothing(database: Database) -> None:
    bound = bind(database, fields=[*FIELDS, "shout"])
    pk = await add(database, title="there")

    def stored(session: Session) -> Any:
        return session.execute(select(Post.__table__)).all()

    before = await database.run_in_session(stored)
    async with socket(bound) as websocket:
        refused: list[tuple[dict[str, Any], str, str]] = [
            ({"action": CREATE, "data": {}}, "invalid data", "$.data.title: missing"),
            (
                {"action": CREATE, "data": {"title": "a", "secret": "b"}},
                "invalid data",
                "$.data.secret: no field",
            ),
            ({"action": CREATE, "data": {"title": "a", "tags": []}}, "invalid data", "$.data.tags: no field"),
            (
                {"action": CREATE, "data": {"title": "a", "shout": "A"}},
                "invalid data",
                "$.data.shout: no field",
            ),
            ({"action": CREATE, "data": {"title": "a", "blog": {}}}, "invalid data", "$.data.blog: no field"),
            ({"action": CREATE, "data": {"title": None}}, "invalid data", "$.data.title"),
            ({"action": CREATE, "data": {"title": "x" * 21}}, "invalid data", "at most 20 characters"),
            ({"action": CREATE, "data": {"title": "LOUD"}}, "invalid data", "do not shout"),
            (
                {"action": CREATE, "data": {"title": "a", "blog_id": 99}},
                "refused by the database",
                "refers to",
            ),
            ({"action": UPDATE, "pk": pk, "data": {"title": "LOUD"}}, "invalid data", "do not shout"),
            ({"action": UPDATE, "pk": pk, "data": {"stars": "5"}}, "invalid data", "$.data.stars"),
            ({"action": UPDATE, "pk": pk, "data": {"stars": 2**70}}, "invalid data", "out of range"),
            ({"action": UPDATE, "pk": pk, "data": {"mood": "soso"}}, "invalid data", "$.data.mood"),
            ({"action": UPDATE, "pk": pk, "data": {"kind": "c"}}, "invalid data", "$.data.kind"),
            ({"action": UPDATE, "pk": pk, "data": {"at": "yesterday"}}, "invalid data", "$.data.at"),
            ({"action": UPDATE, "pk": pk, "data": {"id": 5}}, "invalid data", "$.data.id: no field"),
            ({"action": UPDATE, "pk": 2**70, "data": {"stars": 1}}, "invalid data", "out of range"),
            ({"action": UPDATE, "pk": 99, "data": {"stars": 1}}, "no such object", ""),
            ({"action": DELETE, "pk": 99}, "no such object", ""),
        ]
        for asked, error, details in refused:
            answer = await ask(websocket, **asked)
            assert answer.get("error") == error, (asked, answer)
            assert details in "\n".join(answer.get("details", ())), (asked, answer)
            assert "sqlite" not in str(answer).lower()
            assert await database.run_in_session(stored) == before
        assert (await ask(websocket, action=DELETE, pk=pk))["payload"]["action"] == DELETE


async def test_a_list_holds_no_one_up_and_misses_nothing(database: Database) -> None:
    bound = bind(database, fields=["title"])
    await add(database, title="0")

    class Demultiplexer(WebsocketDemultiplexer):
        groups = ["all"]

        async def connect(self, message: Any, **kwargs: Any) -> None:
            await bound.send_list(message, self.groups)

    def change(session: Session, number: int) -> None:
        session.get_one(Post, 1).title = str(number)

    async def change_often() -> None:
        for number in range(40):
            await database.run_in_session(change, number)

    ends: list[str] = []

    async def watch(client: Client) -> None:
        async with client.websocket("/") as websocket:
            while (first := (await websocket.receive_json())["payload"])["action"] != "list":
                pass  # it is in the group already; the list is not older than this
            title = first["items"][0]["data"]["title"]
            while title != "39":
                following = (await websocket.receive_json())["payload"]["data"]["title"]
                assert int(following) >= int(title)
                title = following
            ends.append(title)

    async with Client([Demultiplexer.as_route()]) as client:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(change_often)
                for _ in range(10):
                    nursery.start_soon(watch, client)
                    await trio.sleep(0.005)
    assert ends == ["39"] * 10

"""SQLAlchemy's mapped classes as models of bindings: blocking sessions in Trio's threads, changes told after commit.

It needs the extra ``triochan[sqlalchemy]``. How changes are found in a session: :mod:`triochan.binding.tracking`.
"""

from __future__ import annotations

import inspect
import threading
import typing
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args, get_origin

import sqlalchemy as sa
import trio
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Engine
from sqlalchemy.orm import ColumnProperty, Mapped, Mapper, Session, sessionmaker
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from ..exceptions import ImproperlyConfigured
from ..routing import name_of
from ..running import current_application, of_application
from .source import (
    ChangeRefused,
    Delivery,
    Field,
    Source,
    deliver,
    label_of,
    logger,
    made,
    no_such_object,
    said_keys,
)
from .tracking import begin, track_class, track_sessions

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

SEND_SECONDS = 30.0
"""How long ``run_in_session`` may take to tell what it, and those before it, have committed."""


class Database:
    """A database: its sessions, and what their commits have to tell to the groups of bindings.

    ::

        database = Database("sqlite:///blog.sqlite3")

        class PostBinding(WebsocketBinding):
            model = database.model(Post)
            …

        def publish(session, pk):
            post = session.get(Post, pk)
            post.draft = False
            return post

        post = await database.run_in_session(publish, 7)

    Sessions exist in :meth:`run_in_session` alone, so that every commit is followed by its messages. What is changed in
    another way, by another program, by a session of one's own on the same engine or by a trigger, clients are not told
    of. What goes past a session's instances is an error where they would have to be.

    Args:
        engine: a URL or an engine. An engine made here for SQLite checks foreign keys, has working savepoints, and is
            one database in memory where the URL names no file.
        threads: how many sessions may be open at once; 1 for SQLite, where a second writer would only wait for the
            first, else 10.
        session_options: for :class:`sqlalchemy.orm.Session`; ``expire_on_commit`` is False unless given, so that what
            a session returned can be read when it is closed.

    Raises:
        ImproperlyConfigured: an engine for SQLite in memory that has a database for each thread.
    """

    def __init__(
        self, engine: str | URL | Engine, *, threads: int | None = None, **session_options: Any
    ) -> None:
        self.engine = engine if isinstance(engine, Engine) else make_engine(engine)
        if isinstance(self.engine.pool, SingletonThreadPool):
            raise ImproperlyConfigured(
                "this engine has a database in memory for each thread, and sessions run in any of several; make "
                "it with poolclass=StaticPool and connect_args={'check_same_thread': False}, or give Database the URL"
            )
        shared = self.engine.dialect.name == "sqlite"
        self.limiter = trio.CapacityLimiter(threads or (1 if shared else 10))
        self.turn = trio.Lock()
        self.sources: dict[Mapper[Any], list[Model[Any]]] = {}
        self.committed: deque[list[Delivery]] = deque()
        """The messages of each commit that were not sent yet, in the order of the commits."""
        self.committing = threading.Lock()
        """Held from before a commit until its messages are in ``committed``."""
        options = {"expire_on_commit": False, **session_options}
        self._sessions: sessionmaker[Session] = sessionmaker(self.engine, **options)
        track_sessions(self._sessions)

    async def run_in_session(
        self, function: Callable[Concatenate[Session, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call ``function(session, …)`` in a thread, commit, tell the groups of bindings, and give what it returned.

        It is rolled back when the function raises. A commit within the function is told as well, whatever comes after
        it; what was rolled back never is. If it is cancelled, it waits for the thread, and then tells.

        Raises:
            TypeError: the function is async.
            Exception: whatever the function or the commit raised.
        """
        if inspect.iscoroutinefunction(function):
            raise TypeError(
                f"{name_of(function)} is async; a session blocks, so a plain function goes with it, in a thread"
            )
        try:
            return await self._in_thread(lambda session: function(session, *args, **kwargs))
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_SECONDS):
                await self._tell()

    async def _in_thread(self, function: Callable[[Session], R]) -> R:
        application = current_application()

        def work() -> R:
            # A thread can't ask which application is served; it is that of the task that waits for it.
            own = nullcontext() if application is None else of_application(application)
            with own, self._sessions() as session:
                begin(session, self)
                result = function(session)
                session.commit()
                return result

        return await trio.to_thread.run_sync(work, limiter=self.limiter)

    async def _tell(self) -> None:
        async with self.turn:
            while self.committed:
                await deliver(self.committed.popleft())

    def model(self, cls: type[T], *, label: str | None = None) -> Model[T]:
        """A mapped class, for a binding's ``model``.

        Args:
            label: what clients know it by; by default the last part of the class's module, a dot and its name.

        Raises:
            ImproperlyConfigured: it is not mapped, or its primary key has several columns.
        """
        source = Model(self, cls, label)
        self.sources.setdefault(source.mapper, []).append(source)
        track_class(cls)
        return source

    def close(self) -> None:
        """Close the connections that the engine keeps."""
        self.engine.dispose()


class Model(Source[T]):
    """A mapped class of a database; :meth:`Database.model` makes it."""

    def __init__(self, database: Database, cls: type[T], label: str | None) -> None:
        super().__init__()
        mapper = sa.inspect(cls, raiseerr=False) if isinstance(cls, type) else None
        if not isinstance(mapper, Mapper):
            raise ImproperlyConfigured(f"database.model() takes a mapped class, not {name_of(cls)}")
        if len(mapper.primary_key) != 1:
            raise ImproperlyConfigured(f"{name_of(cls)}: a binding needs a primary key of one column")
        self.database = database
        self.cls = cls
        self.mapper: Mapper[T] = mapper
        self.label = label or label_of(cls)
        self.turn = database.turn
        self.fields = {each.key: _field(each, _hints(cls)) for each in mapper.column_attrs}
        key = mapper.get_property_by_column(mapper.primary_key[0]).key
        self.pk = self.fields[key]

    async def create(self, values: dict[str, Any]) -> None:
        def work(session: Session) -> None:
            session.add(made(lambda: self.cls(**values)))

        await self._run(work)

    async def change(self, pk: Any, values: dict[str, Any]) -> None:
        def work(session: Session) -> None:
            instance = self._find(session, pk)
            for name, value in values.items():
                made(partial(setattr, instance, name, value))

        await self._run(work)

    async def remove(self, pk: Any) -> None:
        await self._run(lambda session: session.delete(self._find(session, pk)))

    async def collect(self, view: Callable[[T], R | None]) -> list[R]:
        def work(session: Session) -> list[R]:
            query = sa.select(self.cls).order_by(self.mapper.primary_key[0])
            try:
                instances = session.scalars(query).all()
            except Exception as error:  # noqa: BLE001 - a column's type raises what it likes
                instances = self._one_by_one(session, error)
            return [seen for instance in instances if (seen := view(instance)) is not None]

        # Not run_in_session, which would wait for the turn that the caller has.
        return await self.database._in_thread(work)

    def _one_by_one(self, session: Session, error: Exception) -> list[T]:
        """The instances that can be read; one that holds what its column's type can't read keeps nobody from them.

        Raises:
            DBAPIError: the database itself has something against each of them.
        """
        session.expunge_all()
        instances: list[T] = []
        unreadable: list[Any] = []
        key = self.mapper.primary_key[0]
        for pk in session.scalars(sa.select(key).order_by(key)):
            try:
                instance = session.get(self.cls, pk)
            except Exception as at_this:  # noqa: BLE001 - as above
                unreadable.append(pk)
                error = at_this
            else:
                if instance is not None:
                    instances.append(instance)
        if not instances and isinstance(error, exc.DBAPIError):
            raise error
        logger.error(
            "a list of %s has not what can't be read (%r): %s", self.label, error, said_keys(unreadable)
        )
        return instances

    def _find(self, session: Session, pk: Any) -> T:
        instance = session.get(self.cls, pk)
        if instance is None:
            raise no_such_object()
        return instance

    async def _run(self, work: Callable[[Session], None]) -> None:
        """Do what a client has asked for; what the database has against it is the client's to know, in few words."""
        try:
            await self.database.run_in_session(work)
        except exc.IntegrityError as error:
            reason = "it conflicts with other data, or refers to what is not there"
            raise ChangeRefused("refused by the database", [reason]) from error
        except OverflowError as error:  # an integer that SQLite has no room for
            raise ChangeRefused("invalid data", ["a number is out of range"]) from error
        except exc.DataError as error:
            raise ChangeRefused("invalid data", ["a value is out of range, or too long"]) from error
        except exc.StatementError as error:
            if isinstance(error, exc.DBAPIError):
                raise
            raise ChangeRefused("invalid data", ["a value is of the wrong type"]) from error


def make_engine(url: str | URL) -> Engine:
    """An engine; for SQLite as SQLAlchemy's documentation advises: transactions that begin when they are said to."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed)
    if parsed.database in (None, "", ":memory:"):
        engine = sa.create_engine(parsed, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        engine = sa.create_engine(parsed)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        # Python's module begins transactions late, and not at all before a SAVEPOINT.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _hints(cls: type[Any]) -> dict[str, Any]:
    """What ``Mapped[…]`` says of the attributes; where names can't be resolved, the columns' types have to do."""
    try:
        hints = typing.get_type_hints(cls)
    except (NameError, TypeError):
        return {}
    return {name: get_args(hint)[0] for name, hint in hints.items() if get_origin(hint) is Mapped}


def _field(attribute: ColumnProperty[Any], hints: dict[str, Any]) -> Field:
    column = attribute.columns[0]
    if not isinstance(column, sa.Column):  # an expression
        return Field(attribute.key, Any, writable=False)
    type_ = hints.get(attribute.key)
    if type_ is None:
        try:
            type_ = column.type.python_type
        except NotImplementedError:
            type_ = Any
        if type_ in (dict, list):  # JSON is either, or something else
            type_ = Any
        elif column.nullable and type_ is not Any:
            type_ = type_ | None
    numbered = column.table is not None and column is getattr(column.table, "autoincrement_column", None)
    given = column.nullable or column.default is not None or column.server_default is not None or numbered
    return Field(
        attribute.key,
        type_,
        required=not given,
        writable=column.computed is None and not (column.identity is not None and column.identity.always),
        max_length=getattr(column.type, "length", None) if isinstance(column.type, sa.String) else None,
    )

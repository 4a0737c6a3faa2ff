"""Finding out what a SQLAlchemy session has changed, from the events of its flushes and transactions.

For each instance that a transaction changes, what its groups knew is read from the database before the first flush
that touches it, in a session of its own on the same connection: the instance itself has its new values by then. What
they are to be told is worked out after each flush, so that what a binding raises still stops the change. It is kept
with the transaction or savepoint that the flush was in: a savepoint that is released hands it on, a commit of the
outermost transaction gives it to the database object to be sent, and a rollback forgets it. What the database deletes
or changes along with an instance (:mod:`triochan.binding.cascades`) is looked at in the same way.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import (
    InstanceState,
    Mapper,
    ORMExecuteState,
    Session,
    SessionTransaction,
    object_session,
    sessionmaker,
)

from .cascades import Cascades, in_pieces
from .source import DELETE, Before, Delivery, Observer, Source, deliveries, look

logger = logging.getLogger("triochan.binding")

UNTOLD = "triochan_untold"
"""The execution option of a statement whose changes clients need not be told of."""

COMMIT_SECONDS = 5.0
_TRACKER = "triochan.binding"

Key = Any
"""SQLAlchemy's identity key: class, primary key, token."""


class Database(Protocol):
    """Who is to be told of what a session commits; :class:`triochan.binding.sqlalchemy.Database` is one."""

    @property
    def sources(self) -> Mapping[Mapper[Any], Sequence[Source[Any]]]:
        """By mapped class, whose observers are told."""

    @property
    def committed(self) -> deque[list[Delivery]]:
        """Takes the messages of each commit."""

    @property
    def committing(self) -> threading.Lock:
        """Held from before a commit until its messages are in ``committed``."""


@attrs.frozen(eq=False)
class _Change:
    """What one instance's groups knew before the transaction, and what they have to be told if it commits."""

    before: Before
    messages: list[Delivery]


@attrs.define(eq=False)
class _Tracker:
    """One session's changes."""

    database: Database
    changes: dict[SessionTransaction, dict[Key, _Change]] = attrs.field(factory=dict)
    """By the transaction or savepoint that they were flushed in."""
    before: dict[Key, Before] = attrs.field(factory=dict)
    """Read for the flush that is under way."""
    touched: dict[InstanceState[Any], tuple[Any, Key | None]] = attrs.field(factory=dict)
    """By that flush: the instances, which nobody else may hold, and their keys from before; None for new ones."""
    deleted: set[Key] = attrs.field(factory=set)
    taken: dict[Key, tuple[Mapper[Any], Any]] = attrs.field(factory=dict)
    """By the database's cascades, in that flush: mapped classes and primary keys."""
    committing: bool = False
    """The database's ``committing`` is held."""
    flushing: bool = False
    """What is executed is the flush's own."""
    watched: set[sa.Connection] = attrs.field(factory=set)
    """The connections of the session, whose statements are looked at."""
    _cascades: Cascades | None = None

    @property
    def cascades(self) -> Cascades:
        """The ways from a delete to what bindings tell of."""
        if self._cascades is None:
            tables = {table for mapper in _observed(self.database) for table in mapper.tables}
            self._cascades = Cascades.to([table for table in tables if isinstance(table, sa.Table)])
        return self._cascades

    def remember(self, connection: sa.Connection, state: InstanceState[Any]) -> None:
        """Read what the groups know of a stored instance, unless that is known."""
        observers = self._observers(state.mapper)
        if observers and state.key is not None and self._known(state.key) is None:
            with Session(connection, autoflush=False, join_transaction_mode="rollback_only") as reading:
                self.before[state.key] = look(observers, reading.get(state.mapper.class_, state.identity))

    def remember_taken(self, connection: sa.Connection, state: InstanceState[Any]) -> None:
        """Read what the groups know of the instances that the database will delete, or change, with this one."""
        for table in state.mapper.tables:
            if not isinstance(table, sa.Table) or state.identity is None:
                continue
            for child, keys in self.cascades.rows(connection, table, tuple(state.identity)).items():
                for mapper in _observed(self.database):
                    if child in mapper.tables:
                        self._remember_all(connection, mapper, keys)

    def _remember_all(
        self, connection: sa.Connection, mapper: Mapper[Any], keys: set[tuple[Any, ...]]
    ) -> None:
        [column] = mapper.primary_key
        with Session(connection, autoflush=False, join_transaction_mode="rollback_only") as reading:
            for some in in_pieces(keys):
                query = sa.select(mapper).where(column.in_([key[0] for key in some]))
                for instance in reading.scalars(query):
                    state: InstanceState[Any] = sa.inspect(instance)
                    self.taken[state.key] = (state.mapper, state.identity)
                    if self._known(state.key) is None:
                        self.before[state.key] = look(self._observers(state.mapper), instance)

    def flushed(self, session: Session, transaction: SessionTransaction) -> None:
        """Work out what the flush means for the groups."""
        changes = self.changes.setdefault(transaction, {})
        gone = set(self.deleted)
        for state, (_, key) in self.touched.items():
            if key is not None and key != state.key:  # it has another primary key now
                gone.add(key)
        for key in gone - {state.key for state in self.touched}:
            before = self._known(key) or {}
            changes[key] = _Change(before, deliveries(before, None))
        for state in self.touched:
            before = self._known(state.key) or look(self._observers(state.mapper), None)
            # What is told is what is stored: a column may have made another value of the instance's.
            with _reading(session, state.mapper) as reading:
                stored = reading.get(state.mapper.class_, state.identity)
                changes[state.key] = _Change(before, deliveries(before, stored))
        done = gone | {state.key for state in self.touched}
        for key, (mapper, identity) in self.taken.items():
            if key in done:
                continue
            before = self._known(key) or {}
            with _reading(session, mapper) as reading:
                stored = reading.get(mapper.class_, identity)
                if stored is None or not _is_as_before(before, stored):
                    changes[key] = _Change(before, deliveries(before, stored))
        self.forget()

    def forget(self) -> None:
        """The flush is over, one way or another."""
        self.flushing = False
        self.before.clear()
        self.touched.clear()
        self.deleted.clear()
        self.taken.clear()

    def _observers(self, mapper: Mapper[Any]) -> list[Observer]:
        sources = self.database.sources
        bases = mapper.iterate_to_root()
        return [
            observer for each in bases for source in sources.get(each, ()) for observer in source.observers
        ]

    def _known(self, key: Key) -> Before | None:
        for changes in self.changes.values():
            if key in changes:
                return changes[key].before
        return self.before.get(key)


def _reading(session: Session, mapper: Mapper[Any]) -> Session:
    """A session of its own on the same connection: what it gives is what is stored by now."""
    connection = session.connection(bind_arguments={"mapper": mapper})
    return Session(connection, autoflush=False, join_transaction_mode="rollback_only")


def _is_as_before(before: Before, instance: Any) -> bool:
    """A cascade has left the instance alone: SQLite, for one, may not look at foreign keys."""
    return all(
        observer.names_of(instance) == sight.names
        and (not sight.names or observer.content_of(instance, DELETE) == sight.farewell)
        for observer, sight in before.items()
    )


def track_sessions(sessions: sessionmaker[Session]) -> None:
    """Follow the sessions that are made by ``sessions`` and given to :func:`begin`."""
    for listener in (
        _after_begin,
        _before_flush,
        _after_flush,
        _after_flush_postexec,
        _do_orm_execute,
        _before_commit,
        _after_commit,
    ):
        event.listen(sessions, listener.__name__[1:], listener)
    event.listen(sessions, "after_transaction_end", _after_transaction_end)


def track_class(cls: type[Any]) -> None:
    """Follow the instances of a mapped class and of those that inherit from it."""
    for listener in (_before_insert, _before_update, _before_delete):
        event.listen(cls, listener.__name__[1:], listener, propagate=True)


def begin(session: Session, database: Database) -> None:
    """What ``session`` commits is to be told by ``database``."""
    session.info[_TRACKER] = _Tracker(database)


# -- a flush


def _before_flush(session: Session, *_: Any) -> None:
    # Those whose changes are known by now. Others are found as the flush comes to them, when what they refer to may
    # have been changed already.
    tracker: _Tracker = session.info[_TRACKER]
    for instance in (*session.dirty, *session.deleted):
        state: InstanceState[Any] = sa.inspect(instance)
        if instance in session.deleted or session.is_modified(instance):
            connection = session.connection(bind_arguments={"mapper": state.mapper})
            tracker.remember(connection, state)
            if instance in session.deleted:
                tracker.remember_taken(connection, state)
    # Last: where the bindings have raised, there is no flush.
    tracker.flushing = True


def _tracker_of(instance: Any) -> _Tracker | None:
    session = object_session(instance)
    return None if session is None else session.info.get(_TRACKER)


def _before_insert(mapper: Mapper[Any], connection: sa.Connection, instance: Any) -> None:
    tracker = _tracker_of(instance)
    if tracker is not None:
        tracker.touched[sa.inspect(instance)] = (instance, None)


def _before_update(mapper: Mapper[Any], connection: sa.Connection, instance: Any) -> None:
    tracker = _tracker_of(instance)
    session = object_session(instance)
    if tracker is not None and session is not None and session.is_modified(instance):
        state: InstanceState[Any] = sa.inspect(instance)
        tracker.remember(connection, state)
        tracker.touched[state] = (instance, state.key)


def _before_delete(mapper: Mapper[Any], connection: sa.Connection, instance: Any) -> None:
    tracker = _tracker_of(instance)
    if tracker is not None:
        state: InstanceState[Any] = sa.inspect(instance)
        tracker.remember(connection, state)
        tracker.deleted.add(state.key)


def _after_flush(session: Session, _: Any) -> None:
    session.info[_TRACKER].flushing = False


def _after_flush_postexec(session: Session, _: Any) -> None:
    session.info[_TRACKER].flushed(session, session.get_nested_transaction() or session.get_transaction())


def _do_orm_execute(execution: ORMExecuteState) -> None:
    """An UPDATE or DELETE of many rows names no instances, of which anybody could be told."""
    if execution.is_select or execution.execution_options.get(UNTOLD):
        return
    table = getattr(execution.statement, "table", None)
    name = getattr(table, "name", None)
    if name is not None:
        _refuse_untold(execution.session.info[_TRACKER], name, deletes=execution.is_delete)


def _refuse_untold(tracker: _Tracker, name: str, *, deletes: bool) -> None:
    """Raise an error for a statement that changes the table ``name``, where clients would have to be told."""
    for mapper in _observed(tracker.database):
        if any(getattr(table, "name", None) == name for table in mapper.tables):
            raise RuntimeError(
                f"this statement changes {name}, and the clients of {mapper.class_.__name__}'s bindings would "
                "not be told: change instances of a session instead (not bulk_save_objects and its like); or, if they "
                f"need not know, give the statement .execution_options({UNTOLD}=True), or the session's connection()"
            )
    if deletes and tracker.cascades.start_at(name):
        raise RuntimeError(
            f"this statement deletes from {name}, and what bindings tell of goes with it (ON DELETE), whose "
            "clients would not be told: delete instances with session.delete() instead; or, if they need not know, "
            f"give the statement .execution_options({UNTOLD}=True), or the session's connection()"
        )


def _observed(database: Database) -> Iterator[Mapper[Any]]:
    for mapper, sources in database.sources.items():
        if any(source.observers for source in sources):
            yield mapper


_CHANGES = re.compile(
    r"\b(?:insert\s+(?:or\s+\w+\s+|ignore\s+)?into|update(?:\s+or\s+\w+)?|delete\s+from|replace\s+into|merge\s+into|"
    r"truncate(?:\s+table)?)\s+(?:only\s+)?(?:[\"`\[]?\w+[\"`\]]?\s*\.\s*)*[\"`\[]?(?P<table>\w+)",
    re.IGNORECASE,
)
"""What an SQL statement changes, in the dialects that SQLAlchemy speaks; what stands in quotes may be taken for it."""


def _after_begin(session: Session, _: SessionTransaction, connection: sa.Connection) -> None:
    tracker: _Tracker = session.info[_TRACKER]
    if connection in tracker.watched:
        return
    tracker.watched.add(connection)

    @event.listens_for(connection, "before_cursor_execute")
    def look_at(
        conn: sa.Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        """Whatever goes past the session's instances comes through here: SQL in text, bulk operations, Core."""
        if tracker.flushing or (context is not None and context.execution_options.get(UNTOLD)):
            return
        for found in _CHANGES.finditer(statement):
            deletes = not found[0].lower().startswith(("insert", "update"))
            _refuse_untold(tracker, found["table"], deletes=deletes)


# -- a transaction


def _before_commit(session: Session) -> None:
    if session.get_nested_transaction() is not None:
        return
    # What is left to flush is flushed before the lock is taken: it may wait for rows that another session has changed,
    # and that one for the lock.
    session.flush()
    tracker: _Tracker = session.info[_TRACKER]
    if not tracker.committing and any(
        change.messages for each in tracker.changes.values() for change in each.values()
    ):
        # Without it, of two commits one after the other the second one's messages could be sent first. A database that
        # waits for another session even in its commit (deferred constraints) is a reason not to insist.
        tracker.committing = tracker.database.committing.acquire(timeout=COMMIT_SECONDS)
        if not tracker.committing:
            logger.warning(
                "the messages of two commits may be sent in the wrong order: one took over %g s",
                COMMIT_SECONDS,
            )


def _after_commit(session: Session) -> None:
    tracker: _Tracker = session.info[_TRACKER]
    transaction = session.get_nested_transaction() or session.get_transaction()
    changes = tracker.changes.pop(transaction, None) if transaction is not None else None
    if not changes or transaction is None:
        return
    outer = transaction.parent
    while outer is not None and not outer.nested and outer.parent is not None:
        outer = outer.parent
    if outer is not None:
        tracker.changes.setdefault(outer, {}).update(changes)
        return
    tracker.database.committed.append([message for change in changes.values() for message in change.messages])


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    tracker: _Tracker = session.info[_TRACKER]
    tracker.forget()
    tracker.changes.pop(transaction, None)
    if transaction.parent is None and tracker.committing:
        tracker.committing = False
        tracker.database.committing.release()

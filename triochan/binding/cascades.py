"""What a database's own ``ON DELETE`` takes along: rows that no session names when another row is deleted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import attrs
import sqlalchemy as sa

CASCADE = "CASCADE"
_ACTIONS = frozenset({CASCADE, "SET NULL", "SET DEFAULT"})
_AT_ONCE = 200
"""Keys in one statement; SQLite takes 999 values in some versions."""

Key = tuple[Any, ...]
"""A row's primary key."""


@attrs.frozen
class Cascades:
    """The foreign keys by which a delete comes to some tables, one way or another."""

    _following: Mapping[sa.Table, Sequence[sa.ForeignKeyConstraint]]
    """By the table that is deleted from."""

    @classmethod
    def to(cls, tables: Collection[sa.Table]) -> Cascades:
        """Those that change rows of ``tables``, through tables that are not among them too."""
        constraints = [
            constraint
            for metadata in {table.metadata for table in tables}
            for table in metadata.tables.values()
            for constraint in table.foreign_key_constraints
            if _action(constraint) in _ACTIONS and table.primary_key.columns
        ]
        following: defaultdict[sa.Table, list[sa.ForeignKeyConstraint]] = defaultdict(list)
        found = True
        while found:
            found = False
            for constraint in constraints:
                leads = constraint.table in tables or (
                    _action(constraint) == CASCADE and constraint.table in following
                )
                if leads and constraint not in following[constraint.referred_table]:
                    following[constraint.referred_table].append(constraint)
                    found = True
        return cls(following)

    def start_at(self, name: str) -> bool:
        """A delete from a table of that name may take rows along."""
        return any(table.name == name for table in self._following)

    def rows(self, connection: sa.Connection, table: sa.Table, key: Key) -> dict[sa.Table, set[Key]]:
        """The rows that a delete of one row takes along, or changes; a query for each foreign key on the way."""
        rows: defaultdict[sa.Table, set[Key]] = defaultdict(set)
        waiting = [(table, [key])]
        while waiting:
            parent, keys = waiting.pop()
            for constraint in self._following.get(parent, ()):
                child = constraint.table
                new = set(_children(connection, constraint, keys)) - rows[child]
                rows[child] |= new
                if new and _action(constraint) == CASCADE:
                    waiting.append((child, list(new)))
        return rows


def _action(constraint: sa.ForeignKeyConstraint) -> str:
    return " ".join((constraint.ondelete or "").upper().split())


def _children(
    connection: sa.Connection, constraint: sa.ForeignKeyConstraint, keys: list[Key]
) -> Iterator[Key]:
    child = constraint.table
    parent = constraint.referred_table.alias()  # it may be the same table
    joined = sa.and_(*(each.parent == parent.c[each.column.key] for each in constraint.elements))
    query = sa.select(*child.primary_key.columns).join_from(child, parent, joined)
    columns = list(parent.primary_key)
    for some in in_pieces(keys):
        one = len(columns) == 1
        chosen = columns[0].in_([key[0] for key in some]) if one else sa.tuple_(*columns).in_(some)
        yield from map(tuple, connection.execute(query.where(chosen)))


def in_pieces(keys: Collection[Key]) -> Iterator[list[Key]]:
    """The keys, as many at a time as one statement takes."""
    ordered = list(keys)
    for start in range(0, len(ordered), _AT_ONCE):
        yield ordered[start : start + _AT_ONCE]

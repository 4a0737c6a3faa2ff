"""Who is in which group, both ways: sets whose memberships end with the scope of their member."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

M = TypeVar("M", bound=Hashable)


class GroupRegistry(Generic[M]):
    """Groups of members of this process.

    A member's groups are known too, so that leaving them all costs what the member is in, not what exists.
    """

    def __init__(self) -> None:
        self._members: dict[str, dict[M, None]] = {}
        self._groups: dict[M, set[str]] = {}
        self._lists: dict[str, list[M]] = {}

    def add(self, group: str, member: M) -> bool:
        """Put ``member`` into ``group``; True where it is the group's first. Twice is once."""
        members = self._members.get(group)
        first = members is None
        if members is None:
            members = self._members[group] = {}
        members[member] = None
        self._lists.pop(group, None)
        self._groups.setdefault(member, set()).add(group)
        return first

    def discard(self, group: str, member: M) -> bool:
        """Take ``member`` out of ``group``; True where the group is empty now. Not in it: nothing happens."""
        members = self._members.get(group)
        if members is None or member not in members:
            return False
        del members[member]
        self._lists.pop(group, None)
        groups = self._groups[member]
        groups.discard(group)
        if not groups:
            del self._groups[member]
        if not members:
            del self._members[group]
        return not members

    def has(self, group: str, member: M) -> bool:
        """``member`` is in ``group``."""
        return member in self._members.get(group, ())

    def members(self, group: str) -> list[M]:
        """The members of ``group`` now, in the order in which they joined."""
        return list(self._members.get(group, ()))

    def snapshot(self, group: str) -> list[M]:
        """The same, and the same list until one joins or leaves; not to be changed."""
        found = self._lists.get(group)
        if found is None:
            found = list(self._members.get(group, ()))
            if found:
                self._lists[group] = found
        return found

    def groups_of(self, member: M) -> set[str]:
        return set(self._groups.get(member, ()))

    def leave_all(self, member: M) -> list[str]:
        """Take ``member`` out of every group; those that are empty now."""
        if member not in self._groups:
            return []
        return [group for group in self.groups_of(member) if self.discard(group, member)]

    @contextmanager
    def scope(self, member: M) -> Iterator[None]:
        """Memberships that ``member`` gains within the block end with it, however it ends."""
        try:
            yield
        finally:
            self.leave_all(member)

    def names(self) -> list[str]:
        """The groups that have members."""
        return list(self._members)

    def __len__(self) -> int:
        return len(self._members)

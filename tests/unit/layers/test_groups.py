"""The registry of groups: both directions agree at all times."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from triochan.layers.groups import GroupRegistry


def test_first_and_last_are_told() -> None:
    groups: GroupRegistry[str] = GroupRegistry()
    assert groups.add("room", "a") is True
    assert groups.add("room", "b") is False
    assert groups.add("other", "a") is True
    assert groups.discard("room", "a") is False
    assert groups.discard("room", "b") is True
    assert groups.names() == ["other"]
    assert len(groups) == 1


def test_twice_is_once_and_keeps_its_place() -> None:
    groups: GroupRegistry[str] = GroupRegistry()
    groups.add("room", "a")
    groups.add("room", "b")
    assert groups.add("room", "a") is False
    assert groups.members("room") == ["a", "b"]
    groups.discard("room", "a")
    assert groups.members("room") == ["b"]


def test_discarding_what_is_not_there_is_nothing() -> None:
    groups: GroupRegistry[str] = GroupRegistry()
    assert groups.discard("room", "a") is False
    groups.add("room", "a")
    assert groups.discard("room", "b") is False
    assert groups.discard("other", "a") is False
    assert groups.members("room") == ["a"]


def test_members_in_the_order_in_which_they_joined() -> None:
    groups: GroupRegistry[int] = GroupRegistry()
    for member in (3, 1, 2):
        groups.add("room", member)
    assert groups.members("room") == [3, 1, 2]
    groups.discard("room", 3)
    groups.add("room", 3)
    assert groups.members("room") == [1, 2, 3]


def test_what_is_returned_is_the_caller_s_own() -> None:
    groups: GroupRegistry[str] = GroupRegistry()
    groups.add("room", "a")
    groups.members("room").clear()
    groups.groups_of("a").clear()
    groups.names().clear()
    assert groups.members("room") == ["a"]
    assert groups.groups_of("a") == {"room"}
    for member in groups.members("room"):  # a member may leave while the group is gone through
        groups.discard("room", member)
    assert groups.members("room") == []


def test_leaving_all_says_which_are_empty_now() -> None:
    groups: GroupRegistry[str] = GroupRegistry()
    for group in ("one", "two", "three"):
        groups.add(group, "a")
    groups.add("two", "b")
    assert sorted(groups.leave_all("a")) == ["one", "three"]
    assert groups.names() == ["two"]
    assert groups.leave_all("a") == []
    assert groups.leave_all("nobody") == []


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_a_scope_ends_memberships_however_it_ends(error: type[BaseException] | None) -> None:
    groups: GroupRegistry[str] = GroupRegistry()
    groups.add("room", "b")
    try:
        with groups.scope("a"):
            groups.add("room", "a")
            groups.add("other", "a")
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        assert error is not None
    assert groups.members("room") == ["b"]
    assert groups.names() == ["room"]


class Model(RuleBasedStateMachine):
    """The registry beside a set of pairs."""

    names = st.sampled_from("abc")
    members = st.integers(0, 3)

    def __init__(self) -> None:
        super().__init__()
        self.groups: GroupRegistry[int] = GroupRegistry()
        self.pairs: set[tuple[str, int]] = set()

    def size(self, group: str) -> int:
        return sum(each == group for each, _ in self.pairs)

    @rule(group=names, member=members)
    def add(self, group: str, member: int) -> None:
        assert self.groups.add(group, member) == (self.size(group) == 0)
        self.pairs.add((group, member))

    @rule(group=names, member=members)
    def discard(self, group: str, member: int) -> None:
        was_in = (group, member) in self.pairs
        self.pairs.discard((group, member))
        assert self.groups.discard(group, member) == (was_in and self.size(group) == 0)

    @rule(member=members)
    def leave_all(self, member: int) -> None:
        mine = {group for group, each in self.pairs if each == member}
        self.pairs = {pair for pair in self.pairs if pair[1] != member}
        assert set(self.groups.leave_all(member)) == {group for group in mine if not self.size(group)}

    @invariant()
    def both_ways_agree(self) -> None:
        assert {
            (name, member) for name in self.groups.names() for member in self.groups.members(name)
        } == self.pairs
        for member in range(4):
            assert self.groups.groups_of(member) == {group for group, each in self.pairs if each == member}
        assert len(self.groups) == len({group for group, _ in self.pairs})
        # Nothing is kept of what is empty.
        assert all(self.groups._members.values())
        assert all(self.groups._groups.values())


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)

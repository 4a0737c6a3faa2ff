"""Who is where: the contract of a layer's presences, what is told of them, and those of one process.

A topic is a group's name. What happens in it is gathered for a tick, and told to the group in one frame of JSON:
``docs/presence.md`` has the frames' form.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Protocol

import attrs
import trio

from ..content import encode_plain
from ..exceptions import LayerUnavailable
from ..log_lines import show_unwritten
from ..wire.outbox import Outbox, broadcast

logger = logging.getLogger("triochan.layers")

TICK_SECONDS = 0.05
"""For so long what happens in a topic is gathered."""
_TICKS_AWAY = 10
"""For so many, an engine that is away is not asked again."""
MEMBERS_PER_TICK = 1000
"""A topic with more members is told a tick later for each so many: sending to them all is what a change costs."""

Metas = dict[str, list[str]]
"""Of each key what is told of its members, each a JSON object with its ``ref``."""


class Watcher(Protocol):
    """Whom a topic's list is sent to: a connection's reply channel."""

    @property
    def endpoint(self) -> HasOutbox: ...


class HasOutbox(Protocol):
    @property
    def outbox(self) -> Outbox | None: ...


@attrs.define(eq=False)
class Member:
    """One presence: of a connection, or of a block of a task.

    Attributes:
        topic, key: where, and as whom.
        ref: tells it apart from others of the same key; the same in updates.
        text: what is told of it, a JSON object with the ``ref``.
        here: it has not left.
    """

    topic: str
    key: str
    ref: str
    text: str
    here: bool = True


@attrs.define(eq=False)
class Changes:
    """What has happened in a topic since it was told last, each member in one place of them at most."""

    joins: dict[str, Member] = attrs.field(factory=dict)
    updates: dict[str, Member] = attrs.field(factory=dict)
    leaves: dict[str, Member] = attrs.field(factory=dict)
    uncertain: set[str] = attrs.field(factory=set)
    """Refs of joins that an engine may know of already: it was told, and has not answered."""

    def __bool__(self) -> bool:
        return bool(self.joins or self.updates or self.leaves)

    def __len__(self) -> int:
        return len(self.joins) + len(self.updates) + len(self.leaves)

    def take(self, limit: int) -> Changes:
        """The first of them, at most ``limit``, which are no longer here."""
        if len(self) <= limit and not self.uncertain:
            taken = Changes(self.joins, self.updates, self.leaves)
            self.joins, self.updates, self.leaves = {}, {}, {}
            return taken
        taken = Changes()
        for source, target in (
            (self.joins, taken.joins),
            (self.updates, taken.updates),
            (self.leaves, taken.leaves),
        ):
            for ref in list(islice(source, limit - len(taken))):
                target[ref] = source.pop(ref)
        return taken

    def put_back(self, taken: Changes) -> None:
        """An engine was told of ``taken``, and has not answered; since then, what is here has happened."""
        since = Changes(self.joins, self.updates, self.leaves)
        self.joins, self.updates, self.leaves = taken.joins, taken.updates, taken.leaves
        self.uncertain.update(taken.joins)
        for member in since.joins.values():
            self.joined(member)
        for member in since.updates.values():
            self.updated(member)
        for member in since.leaves.values():
            self.left(member)

    def joined(self, member: Member) -> None:
        self.joins[member.ref] = member

    def updated(self, member: Member) -> None:
        if member.ref not in self.joins:  # which says the latest
            self.updates[member.ref] = member

    def left(self, member: Member) -> None:
        self.updates.pop(member.ref, None)
        if self.joins.pop(member.ref, None) is None or member.ref in self.uncertain:
            self.leaves[member.ref] = member  # else nobody has heard of it


@attrs.define(eq=False)
class Topic:
    """What this process knows of a topic.

    Attributes:
        members: this process's, by their refs, in the order in which they joined.
        changes: what has not been told yet.
        newcomers: who is sent the list next.
        ticks: until it is told; 0: nothing is to be told.
        asking: an engine is being told of changes that are no longer in ``changes``.
    """

    name: str
    members: dict[str, Member] = attrs.field(factory=dict)
    changes: Changes = attrs.field(factory=Changes)
    newcomers: dict[Watcher, None] = attrs.field(factory=dict)
    ticks: int = 0
    asking: bool = False


class LayerPresence(ABC):
    """The presences of a layer.

    Joining, updating and leaving never wait and never fail: they happen in this process at once, and are told within a
    tick. :class:`triochan.presence.Presence` is what programs hold.

    Args:
        mark: of this process, in refs: no other process on the same engine has it.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._serial = 0
        self.topics: dict[str, Topic] = {}
        self._waiting: dict[str, Topic] = {}
        self._telling: trio.CancelScope | None = None
        self._stopped = False

    # -- members of this process

    def join(self, topic: str, key: str, meta: str) -> Member:
        """Have one more member in ``topic``.

        Args:
            meta: a JSON object without a ``ref``.
        """
        self._serial += 1
        ref = f"{self._mark}.{self._serial:x}"
        member = Member(topic, key, ref, _with_ref(meta, ref))
        known = self._topic(topic)
        known.members[ref] = member
        known.changes.joined(member)
        self._tell_soon(known)
        return member

    def update(self, member: Member, meta: str) -> None:
        """Tell something else of ``member``, who is here."""
        known = self.topics[member.topic]
        member.text = _with_ref(meta, member.ref)
        known.changes.updated(member)
        self._tell_soon(known)

    def leave(self, member: Member) -> None:
        """``member`` is here no more; again is no error."""
        if not member.here:
            return
        member.here = False
        known = self.topics[member.topic]
        del known.members[member.ref]
        known.changes.left(member)
        self._tell_soon(known)

    def welcome(self, topic: str, watcher: Watcher) -> None:
        """Send the list to ``watcher``, who is in the group already and so misses no diff, within a tick."""
        known = self._topic(topic)
        known.newcomers[watcher] = None
        self._tell_soon(known)

    @abstractmethod
    async def metas(self, topic: str) -> Metas:
        """Who is there.

        Raises:
            LayerUnavailable: a distributed layer's engine does not answer.
        """

    # -- telling

    @abstractmethod
    async def _tell(self, topics: list[Topic]) -> None:
        """Tell the groups what has happened in these topics, and newcomers who is there.

        What could not be told stays in ``changes`` and ``newcomers``, and is told with what happens meanwhile.

        Raises:
            LayerUnavailable: a distributed layer's engine does not answer.
        """

    def _forgotten(self, name: str) -> None:  # noqa: B027 - a layer may keep nothing
        """This process has nothing to do with that topic any more."""

    def _topic(self, name: str) -> Topic:
        known = self.topics.get(name)
        if known is None:
            known = self.topics[name] = Topic(name)
        return known

    def _tell_soon(self, topic: Topic, ticks: int = 1) -> None:
        if self._stopped:
            return
        if not topic.ticks:
            topic.ticks = ticks + len(topic.members) // MEMBERS_PER_TICK
            self._waiting[topic.name] = topic
        if self._telling is None:
            # A task of the run's, and there only while there is something to tell: it belongs to no connection, for
            # what it tells is that connections have ended.
            self._telling = trio.CancelScope()
            trio.lowlevel.spawn_system_task(
                self._run, self._telling, name=f"{__name__}: {type(self).__name__}"
            )

    async def _run(self, scope: trio.CancelScope) -> None:
        try:
            with scope:
                while self._waiting:
                    await trio.sleep(TICK_SECONDS)
                    try:
                        await self._tick()
                    except Exception as error:  # noqa: BLE001 - a system task that raises would end the run
                        _report(error)
        finally:
            if self._telling is scope:
                self._telling = None

    async def _tick(self) -> None:
        due = []
        for topic in list(self._waiting.values()):
            topic.ticks -= 1
            if not topic.ticks:
                del self._waiting[topic.name]
                due.append(topic)
        if not due:
            return
        ticks = 1
        try:
            await self._tell(due)
        except LayerUnavailable:  # which the layer has told of
            ticks = _TICKS_AWAY
        finally:
            for topic in due:
                if topic.changes or topic.newcomers:
                    self._tell_soon(topic, ticks)
                elif not (topic.members or topic.ticks or topic.asking):
                    self.topics.pop(topic.name, None)
                    self._forgotten(topic.name)

    def stop(self) -> None:
        """The layer serves no more: nothing else is told. Again is no error."""
        self._stopped = True
        scope, self._telling = self._telling, None
        if scope is not None:
            scope.cancel()
        self._waiting.clear()


class MemoryPresence(LayerPresence):
    """Those of one process: exact at every moment.

    Args:
        mark: see :class:`LayerPresence`.
        send: sends a text to the connections in a group.
    """

    def __init__(self, mark: str, send: Callable[[str, str], None]) -> None:
        super().__init__(mark)
        self._send = send
        self._versions: dict[str, int] = {}
        # Versions of a topic only grow, also where it was forgotten meanwhile.
        self._latest = 0

    async def metas(self, topic: str) -> Metas:
        known = self.topics.get(topic)
        return {} if known is None else by_key(known.members.values())

    def _forgotten(self, name: str) -> None:
        self._latest = max(self._latest, self._versions.pop(name, 0))

    async def _tell(self, topics: list[Topic]) -> None:
        errors: list[Exception] = []
        for topic in topics:
            try:
                self._tell_one(topic)
            except Exception as error:  # noqa: BLE001 - it is no other topic's
                errors.append(error)
        if errors:
            raise errors[0]

    def _tell_one(self, topic: Topic) -> None:
        changes, topic.changes = topic.changes, Changes()
        newcomers, topic.newcomers = topic.newcomers, {}
        version = self._versions.get(topic.name)
        begins = version is None
        if version is None:
            version = self._latest
        if changes:
            version += 1
        self._versions[topic.name] = version
        # One step, without a checkpoint: each who is in the group has something that the next diff follows.
        state = ""
        if newcomers or begins:
            state = state_text(topic.name, version, by_key(topic.members.values()))
        if newcomers:
            send_to(newcomers, state)
        if changes:
            # A list that begins follows none that a client of the topic may have from before.
            self._send(topic.name, state if begins else diff_text(topic.name, version, changes))


def by_key(members: Iterable[Member]) -> Metas:
    """What is told of ``members``, sorted by their keys, each key's in the order in which they joined."""
    found: Metas = {}
    for member in members:
        metas = found.get(member.key)
        if metas is None:
            found[member.key] = [member.text]
        else:
            metas.append(member.text)
    return found


def state_text(topic: str, version: int, metas: Metas) -> str:
    """The frame that has a topic's list, as it is after the diff ``version``."""
    return f'{{"presence":"{topic}","version":{version},"state":{_object(metas)}}}'


def diff_text(topic: str, version: int, changes: Changes) -> str:
    """The frame that says what has changed since the diff before."""
    parts = [
        f',"{name}":{_object(by_key(members.values()))}'
        for name, members in (("joins", changes.joins), ("updates", changes.updates))
        if members
    ]
    if changes.leaves:
        refs: Metas = {}
        for member in changes.leaves.values():
            refs.setdefault(member.key, []).append(f'"{member.ref}"')
        parts.append(f',"leaves":{_object(refs)}')
    return f'{{"presence":"{topic}","version":{version}{"".join(parts)}}}'


def send_to(watchers: Iterable[Watcher], text: str) -> None:
    """Send to connections of this process, without waiting for any of them: as a group send does."""
    outboxes = [outbox for each in watchers if (outbox := each.endpoint.outbox) is not None]
    broadcast(text, outboxes)


def _object(metas: Mapping[str, list[str]]) -> str:
    return "{" + ",".join([f"{encode_plain(key)}:[{','.join(each)}]" for key, each in metas.items()]) + "}"


def _with_ref(meta: str, ref: str) -> str:
    return f'{{"ref":"{ref}"}}' if meta == "{}" else f'{{"ref":"{ref}",{meta[1:]}'


def _report(error: Exception) -> None:
    try:
        logger.error("presence: what has changed could not be told: %s", error, exc_info=error)
    except Exception as unwritten:  # noqa: BLE001 - a handler of the log is the program's
        show_unwritten(unwritten, error)

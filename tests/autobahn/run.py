"""Runs Autobahn|Testsuite's fuzzing client against an echo consumer, and fails where a case does. See --help."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[1] / ".autobahn"
REQUIREMENTS = HERE / "requirements.txt"
VIRTUALENV = "virtualenv==20.21.1"  # the last one that makes environments for Python 2.7
AGENT = "triochan"

CASES = 517
"""All that it has."""
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
"""NON-STRICT: as the RFC allows, but later than it might be. INFORMATIONAL: no answer is wrong."""
CHAPTERS = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "closing handshake",
    9: "limits and performance",
    10: "autofragmentation",
    12: "compression, by contents",
    13: "compression, by parameters",
}
MOST_MINUTES = 45
"""It took sixteen on a busy machine of two cores, most of them for compression, by Python 2.7."""

DESCRIPTION = """\
Runs the fuzzing client of Autobahn|Testsuite against an echo consumer that triochan serves on
127.0.0.1 and a free port, with compression: all its cases, which takes about a quarter of an hour.
Prints a summary by behaviour.

The test suite needs Python 2.7, once: from --python2, the variable PYTHON2, the PATH, or pyenv. It
is installed into .autobahn/ in the checkout, at the versions of tests/autobahn/requirements.txt.
"""
EPILOG = """\
examples:
  run.py                        all of it
  run.py --cases 7.*,9.1.6      a chapter, and a case

The reports are in .autobahn/reports; index.html there shows them. Ends with status 0 when every
case has passed, 1 when one has failed or is missing, 2 when the test suite could not be run.
"""


class CannotRun(Exception):
    """The test suite could not be run; the text says why, and what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", metavar="NAMES", default="*", help="only these, separated by commas (all)")
    parser.add_argument("--python2", metavar="PATH", help="a Python 2.7")
    options = parser.parse_args()
    try:
        wstest = prepare(options.python2)
        with echo_server() as port:
            reports = fuzz(wstest, port, options.cases.split(","))
        return judge(reports, CASES if options.cases == "*" else 1)
    except CannotRun as error:
        print(f"autobahn: {error}", file=sys.stderr)
        return 2


# -- the test suite


def prepare(given: str | None) -> Path:
    """The test suite's program, installed where it is not."""
    environment = FOLDER / "venv"
    wstest = environment / "bin" / "wstest"
    stamp = environment / "requirements.txt"
    wanted = REQUIREMENTS.read_text()
    if wstest.exists() and stamp.exists() and stamp.read_text() == wanted:
        return wstest
    python2 = find_python2(given)
    print(f"installing Autobahn|Testsuite for {python2} into {FOLDER}", file=sys.stderr, flush=True)
    shutil.rmtree(environment, ignore_errors=True)
    tools = FOLDER / "tools"
    venv.create(tools, with_pip=True, clear=True)
    call(tools / "bin" / "pip", "install", "--quiet", VIRTUALENV)
    call(tools / "bin" / "virtualenv", "--quiet", "--python", python2, environment)
    call(environment / "bin" / "pip", "install", "--quiet", "--requirement", REQUIREMENTS)
    stamp.write_text(wanted)
    return wstest


def find_python2(given: str | None) -> Path:
    """A Python 2.7 that runs.

    Raises:
        CannotRun: there is none.
    """
    named = given or os.environ.get("PYTHON2")
    if named:
        candidates = [Path(named)]
    else:
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
        candidates = [Path(folder) / "python2.7" for folder in os.get_exec_path()]
        candidates += sorted(pyenv.glob("versions/2.7*/bin/python2.7"))
    for candidate in candidates:
        try:
            ran = subprocess.run(
                [candidate, "-c", "import sys; print(sys.version_info[:2] == (2, 7))"],
                capture_output=True,
                text=True,
                timeout=30,
            )
        except OSError:
            continue
        if ran.stdout.strip() == "True":
            return candidate
    raise CannotRun(
        f"{named} is no Python 2.7 that runs"
        if named
        else "Autobahn|Testsuite needs a Python 2.7, and there is none on the PATH or in pyenv; "
        "install one (pyenv install 2.7.18), or name it with --python2"
    )


def call(*command: str | Path) -> None:
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if ran.returncode:
        raise CannotRun(f"{' '.join(map(str, command))} failed:\n{ran.stdout[-2000:]}")


def fuzz(wstest: Path, port: int, cases: list[str]) -> Path:
    """Run the cases; the folder with their reports."""
    reports = FOLDER / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    specification = FOLDER / "fuzzingclient.json"
    specification.write_text(
        json.dumps(
            {
                "outdir": str(reports),
                "servers": [{"agent": AGENT, "url": f"ws://127.0.0.1:{port}/"}],
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
        )
    )
    with (FOLDER / "wstest.log").open("w") as log:
        process = subprocess.Popen(
            [wstest, "--mode", "fuzzingclient", "--spec", specification],
            cwd=FOLDER,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        watchdog = signal.signal(signal.SIGALRM, lambda *_: process.kill())
        signal.alarm(MOST_MINUTES * 60)
        try:
            for line in process.stdout:
                log.write(line)
                if sys.stderr.isatty() and line.startswith("Running test case"):
                    print(f"\r\x1b[K{line.strip():.79}", end="", file=sys.stderr, flush=True)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, watchdog)
            process.kill()
            process.wait()
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    return reports


@contextmanager
def echo_server() -> Iterator[int]:
    """The echo consumer, served by the command line in a process of its own; gives the port."""
    command = [sys.executable, "-m", "triochan", "--app-dir", str(HERE), "echo:routing"]
    # The largest messages of chapter 9 are of 16 MiB; reading them may be slow on a busy machine.
    command += ["--port", "0", "--max-message-size", "16MiB", "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=HERE.parents[1], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        if found is None:
            raise CannotRun("the echo server did not start; what it said is above")
        yield int(found[1])
        if process.poll() is not None:
            raise CannotRun(f"the echo server ended in the middle, with status {process.returncode}")
    finally:
        process.terminate()
        process.wait()


# -- what it says


def judge(reports: Path, at_least: int) -> int:
    """Print what came out; the exit status."""
    index = reports / "index.json"
    if not index.exists():
        raise CannotRun(f"the test suite wrote no {index}; its output is in {FOLDER / 'wstest.log'}")
    results: dict[str, dict[str, Any]] = json.loads(index.read_text()).get(AGENT, {})
    failed = {case: result for case, result in results.items() if not passed(result)}
    for case, result in sorted(failed.items(), key=lambda item: number_of(item[0])):
        print(explain(case, result, reports))
    print(summary(results))
    if len(results) < at_least:
        print(f"{at_least - len(results)} cases are missing; see {FOLDER / 'wstest.log'}")
    print(f"{len(results) - len(failed)} passed, {len(failed) + max(0, at_least - len(results))} failed")
    return 1 if failed or len(results) < at_least else 0


def passed(result: Mapping[str, Any]) -> bool:
    return result["behavior"] in PASSED and result["behaviorClose"] in PASSED


def number_of(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def summary(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table: chapters down, behaviours across."""
    by_chapter: dict[int, Counter[str]] = {}
    for case, result in results.items():
        behaviour = result["behavior"]
        if behaviour in PASSED and result["behaviorClose"] not in PASSED:
            behaviour = f"close: {result['behaviorClose']}"
        by_chapter.setdefault(number_of(case)[0], Counter())[behaviour] += 1
    total: Counter[str] = Counter()
    for counts in by_chapter.values():
        total.update(counts)
    columns = sorted(total, key=lambda name: (name != "OK", name in PASSED, name))
    lines = [f"{'chapter':<28}" + "".join(f"{name:>{len(name) + 3}}" for name in columns)]
    rows = [(f"{number:>2}  {CHAPTERS.get(number, '')}", by_chapter[number]) for number in sorted(by_chapter)]
    for title, counts in [*rows, ("all", total)]:
        lines.append(f"{title:<28}" + "".join(f"{counts[name] or '':>{len(name) + 3}}" for name in columns))
    return "\n".join(lines)


def explain(case: str, result: Mapping[str, Any], reports: Path) -> str:
    """One case that did not pass: what was expected and what came."""
    lines = [f"case {case}: {result['behavior']}, its close {result['behaviorClose']}"]
    report = reports / result["reportfile"]
    if report.exists():
        details = json.loads(report.read_text())
        lines += [
            f"    {name}: {str(details.get(key)).strip():.400}"
            for name, key in [("what", "description"), ("expected", "expectation"), ("came", "result")]
        ]
        lines.append(f"    report: {report.with_suffix('.html')}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

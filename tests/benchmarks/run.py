"""Measures triochan beside its peers, in turn, on one core each, and prints the ratios. See --help."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`, however this file is started

from benchmarks import environment, plot, report, runner
from benchmarks.scenarios import BEFORE, PEERS, SCENARIOS, SERVERS, SUBJECT, TITLES, Scenario

NONE = "none"

DESCRIPTION = f"""\
Measures triochan beside other WebSocket servers and prints, for every scenario, the median of
the per-round ratios triochan / peer, the project's target beside it and {report.MISSED} where it is missed.

Every server runs on one processor core, the load generator on another. All servers of a
scenario are up at the same time and are loaded in turn, in short rounds: a machine that is
busy with something else changes the figures by the minute, but hardly the ratios of one round.
Where a server is several processes, all of them are on its core, and an engine (a valkey-server that all
servers share) is beside the load generator.
Compression is off but in its own scenario, and every byte that comes back is checked; compressed
messages are counted at every member, and inflated and compared at some.

With --base, triochan as it was at an earlier commit is one more peer: "{TITLES[BEFORE]}". It is served
by the benchmark's own consumers, as the working tree is, and left out where it lacks what they need.

Where the time goes is told by the tables at the end: processor time for a unit of work, and the
kernel's part of it. --profile adds what {TITLES[SUBJECT]}'s processor is in, by module.

Needs Linux, two cores, Python 3.11 and a way to PyPI; the peers are installed at the versions
of tests/benchmarks/requirements.txt into .bench/venv in the checkout, and nowhere else.
"""
EPILOG = f"""\
scenarios:
{chr(10).join(f"  {scenario.key:<14}{scenario.title}" for scenario in SCENARIOS)}

servers:
{chr(10).join(f"  {name:<16}{TITLES[name]}" for name in SERVERS)}

examples:
  run.py                                         all of it, about twenty-five minutes
  run.py --scenario echo,group --rounds 5        two scenarios, in about a minute
  run.py --scenario group --peers picows         against one peer
  run.py --base HEAD~1 --peers none              the working tree against the commit before, no peers
  run.py --scenario http --profile               and where the time goes
  run.py --scenario {",".join(scenario.key for scenario in SCENARIOS if scenario.across)}
                                                 what goes across processes
  run.py --subject websockets --scenario group   another server in triochan's place, without targets

files written to --out: results.json (every round), table.md and plot.svg. Logs of the servers
are in .bench/logs. Ends with status 0 when all was measured, whatever the ratios; 1 when a server
failed; 2 when the benchmarks could not be set up.
"""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scenario",
        type=_names([scenario.key for scenario in SCENARIOS]),
        metavar="NAMES",
        help="only these, separated by commas (all)",
    )
    parser.add_argument(
        "--peers",
        type=_names([*PEERS, NONE]),
        metavar="NAMES",
        help=f"only these, separated by commas, or {NONE} (all)",
    )
    parser.add_argument(
        "--base", metavar="REV", help="measure triochan at this commit too; a tag, a branch, HEAD~1, … (none)"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="sample the subject after each scenario's rounds, with py-spy and, where it is installed, perf",
    )
    parser.add_argument("--rounds", type=_at_least_one, default=9, metavar="N", help="for each scenario (9)")
    parser.add_argument(
        "--seconds", type=_seconds, default=1.0, metavar="S", help="a server is loaded in a round (1.0)"
    )
    parser.add_argument(
        "--subject", choices=SERVERS, default=SUBJECT, metavar="SERVER", help="measure this one (triochan)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=environment.CACHE / "results",
        metavar="DIR",
        help="where files go (.bench/results)",
    )
    return parser.parse_args()


def _names(known: list[str]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return names

    return parse


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 30:
        raise argparse.ArgumentTypeError(f"expected seconds from 0.1 to 30, got {text!r}")
    return value


def machine(python: Path) -> dict[str, Any]:
    """What the figures were measured on and with."""
    frozen = subprocess.run(
        [str(python), "-m", "pip", "freeze", "--quiet", "--disable-pip-version-check"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        timeout=60,
    )
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": frozen.stdout.split(),
    }


def write_results(out: Path, about: dict[str, Any], outcomes: list[report.Outcome]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    raw = about | {"scenarios": [outcome.as_json() for outcome in outcomes]}
    (out / "results.json").write_text(json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
    (out / "table.md").write_text(report.full_report(outcomes) + "\n")
    (out / "plot.svg").write_text(plot.draw(outcomes))


def measure(arguments: argparse.Namespace, base: environment.Base | None) -> int:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        say("two processor cores are needed, one for the server and one for the load; there is one")
        return 2
    python = environment.prepare(say, base)
    certificate, authority = environment.certificate(python)
    settings = runner.Settings(
        python=python,
        subject=arguments.subject,
        peers=arguments.peers or PEERS,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        server_core=cores[0],
        load_core=cores[1],
        certificate=certificate,
        authority=authority,
        say=say,
        base=base,
        profile=arguments.profile,
    )
    chosen: list[Scenario] = [
        scenario for scenario in SCENARIOS if not arguments.scenario or scenario.key in arguments.scenario
    ]
    about = machine(python) | {
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "base": base.revision if base else None,
    }
    outcomes: list[report.Outcome] = []
    started = time.monotonic()
    for number, scenario in enumerate(chosen, 1):
        say(f"[{number}/{len(chosen)}] {scenario.title}")
        outcomes.append(runner.run(scenario, settings))
        write_results(arguments.out, about, outcomes)  # after each, so that a run cut short leaves something
    print(report.full_report(outcomes))
    say(f"took {time.monotonic() - started:.0f} s; rounds, table and plot are in {arguments.out}")
    return 1 if any(outcome.errors for outcome in outcomes) else 0


def main() -> int:
    arguments = parse_arguments()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _stop)  # also where a shell has made background jobs ignore Ctrl-C
    try:
        with environment.alone(), _base(arguments.base) as base:
            return measure(arguments, base)
    except environment.SetupFailed as error:
        say(f"cannot set up the benchmarks: {error}")
        return 2
    except KeyboardInterrupt:
        say("stopped; the scenarios finished before that are in the results")
        return 130


def _base(revision: str | None) -> AbstractContextManager[environment.Base | None]:
    return environment.base(revision) if revision else nullcontext()


def _stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

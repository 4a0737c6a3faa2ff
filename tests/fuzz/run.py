"""Run every fuzzer in turn, each for its share of the time.

    python tests/fuzz/run.py [--seconds 300]

Exit status: 0 where nothing was found, 1 where something was (the input that did it is in ``.fuzz/``), 2 where
atheris is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FUZZERS = ("frames", "control", "deflate", "heads", "http_head")
FOUND = HERE.parents[1] / ".fuzz"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests/fuzz/run.py", description="Run every fuzzer in turn.")
    parser.add_argument("--seconds", type=int, default=300, help="for each of them (default: 300)")
    parser.add_argument(
        "fuzzers", nargs="*", metavar="fuzzer", help=f"of {', '.join(FUZZERS)} (default: all)"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.fuzzers if name not in FUZZERS]:
        parser.error(f"no such fuzzer: {', '.join(unknown)}")
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install 'triochan[fuzz]'", file=sys.stderr)
        return 2
    FOUND.mkdir(exist_ok=True)
    failed = [name for name in options.fuzzers or FUZZERS if not run(name, options.seconds)]
    print(f"found something: {', '.join(failed)}; see {FOUND}" if failed else "nothing found")
    return 1 if failed else 0


def run(name: str, seconds: int) -> bool:
    """True where the fuzzer came to its end without a finding."""
    print(f"== {name}, {seconds} s", flush=True)
    command = [
        sys.executable,
        str(HERE / f"{name}.py"),
        f"-max_total_time={seconds}",
        "-timeout=30",
        f"-artifact_prefix={FOUND}/{name}-",
        "-verbosity=0",
        "-print_final_stats=1",
    ]
    try:
        return subprocess.run(command, timeout=seconds + 120).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"{name} did not end in time", file=sys.stderr)
        return False


if __name__ == "__main__":
    sys.exit(main())

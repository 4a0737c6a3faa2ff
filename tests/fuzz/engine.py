"""What the fuzzers share: atheris around a check, with a folder of inputs to begin with."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import atheris


def fuzz(check: Callable[[bytes], None], seeds: Iterable[bytes], dictionary: Sequence[bytes] = ()) -> None:
    """Call ``check`` with input after input until it raises, or for as long as libFuzzer's options say.

    What ``check`` raises is the finding: libFuzzer prints it, writes the input to ``crash-…`` and exits with 77.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        corpus = folder / "corpus"
        corpus.mkdir()
        for index, seed in enumerate(seeds):
            (corpus / f"seed-{index}").write_bytes(seed)
        arguments = [sys.argv[0], *sys.argv[1:]]
        if dictionary:
            words = folder / "words"
            words.write_text("".join(f'"{_escape(word)}"\n' for word in dictionary))
            arguments.append(f"-dict={words}")
        atheris.Setup([*arguments, str(corpus)], partial(_explain, check))
        atheris.Fuzz()


def _explain(check: Callable[[bytes], None], data: bytes) -> None:
    try:
        check(data)
    except Exception:
        traceback.print_exc()  # libFuzzer would not show what is in an exception group
        raise


def _escape(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)

"""``python -I -S engine_guard.py LINE FOLDER COMMAND...``: runs an engine until its owners have gone; then kills it and
removes its folder.

A process of its own, and a small one: it imports nothing of this package, so that whatever happens to the command, and
even to all of its processes at once, there is one left that cleans up. LINE is the descriptor of a socket; when nobody
has its other end any more, the owners have gone. The engine dies with this process, where the system can do that.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1
LOG = "log"
"""The file in the folder that has what the engine prints."""


def main(line: int, folder: str, command: list[str]) -> int:
    """Run the engine; its exit status where it has ended by itself, that of a signal negative."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    stopping, stop = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(stop, b"."))
    ended, alive = os.pipe()  # the engine has the other end open as long as it lives
    os.set_inheritable(alive, True)
    with open(os.path.join(folder, LOG), "wb") as log:
        engine = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[alive],
            preexec_fn=_die_with_me,  # there are no threads here
        )
    os.close(alive)
    readable, _, _ = select.select([line, stopping, ended], [], [])
    if ended in readable:
        return engine.wait()
    engine.kill()
    engine.wait()
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _die_with_me() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(
            ImportError, OSError, AttributeError
        ):  # it is a second safety, beside the line
            import ctypes  # which not every Python has

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    status = main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL's can't be set
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)

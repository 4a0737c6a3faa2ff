"""What every measured server does alike: options, its core, its open files, its port, its end."""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scenarios import JOB_NUMBER

HOST = "127.0.0.1"
BACKLOG = 2048
PING_INTERVAL = 20.0
"""Seconds, for servers that want to be told; it is the default of most."""
NAP = 0.01
"""Seconds that the handler of `/sleep` sleeps."""


@dataclass(frozen=True)
class Options:
    certificate: Path | None
    """A PEM file with private key and certificate chain; None serves plain TCP."""
    compression: bool
    """Agree to permessage-deflate, with the library's own defaults."""
    pings: bool
    """Send keep-alive pings also where the library's default is not to."""
    engine: str = ""
    """The URL of the engine between this process and the others of its kind; none where it is the only one."""
    prefix: str = ""
    """Stands in all names in the engine: others' processes use it, too."""
    done: str = ""
    """Do jobs, instead of taking connections, and say so at this Unix socket (`Done`)."""
    durable: bool = False
    """Jobs outlive their worker."""

    def ssl_context(self) -> ssl.SSLContext | None:
        if self.certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate)
        return context


def start() -> Options:
    """Call first: read the options, take the core, allow many sockets, end with the harness."""
    parser = argparse.ArgumentParser(description="One measured server; started by run.py")
    parser.add_argument("--core", type=int, help="run on this processor core only")
    parser.add_argument("--certificate", type=Path, help="serve TLS with this PEM file (key and chain)")
    parser.add_argument("--compression", action="store_true", help="agree to permessage-deflate")
    parser.add_argument("--pings", action="store_true", help="send keep-alive pings, whatever the default")
    parser.add_argument("--engine", default="", help="the URL of the engine between several processes")
    parser.add_argument("--prefix", default="", help="of all names in the engine")
    parser.add_argument("--done", default="", help="do jobs, and report them at this Unix socket")
    parser.add_argument("--durable", action="store_true", help="jobs outlive their worker")
    arguments = parser.parse_args()
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    threading.Thread(target=_end_with_harness, daemon=True).start()
    return Options(
        arguments.certificate,
        arguments.compression,
        arguments.pings,
        arguments.engine,
        arguments.prefix,
        arguments.done,
        arguments.durable,
    )


def _end_with_harness() -> None:
    # Standard input is a pipe from the harness: its end means that the harness is gone, killed perhaps,
    # and nobody is left to stop this process.
    while os.read(0, 4096):
        pass
    os._exit(0)


def report(port: int, sources: Path | None = None) -> None:
    """Tell the harness where this server listens, and perhaps what it runs; call once, when it listens."""
    print(json.dumps({"port": port, "sources": str(sources) if sources else None}), flush=True)


class Done:
    """Tells the load generator which jobs are done, by their numbers."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX)
        self._connected = False

    def report(self, job: str) -> None:
        if not self._connected:  # the load generator is there when there are jobs
            self._sock.connect(self._path)
            self._connected = True
        self._sock.sendall(job[:JOB_NUMBER].encode())


def listening_socket() -> socket.socket:
    """A listening socket on a free port, for servers that cannot say which port they got."""
    return socket.create_server((HOST, 0), backlog=BACKLOG)

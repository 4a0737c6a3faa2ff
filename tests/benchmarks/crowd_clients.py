"""Thousands of WebSockets in one process, which does what lines of JSON on its standard input say.

It counts what comes by what it is: a group's message is the same bytes for each member, so that each distinct one is
looked into once, with the times (of the clock that all processes share) at which it came first and last.
"""

from __future__ import annotations

import gc
import json
import resource
import select
import socket
import sys
import time
from collections import Counter, deque
from typing import Any

from benchmarks.wire import (
    HOST,
    READ_SIZE,
    TEXT,
    TIMEOUT,
    Client,
    ProtocolError,
    check_upgrade,
    client_frame,
    upgrade_request,
)

AHEAD = 100
"""So many handshakes are under way at once: a server's backlog has room for them."""
IP_BIND_ADDRESS_NO_PORT = 24  # of Linux's <netinet/in.h>: the port is chosen by `connect`
AGAIN_SECONDS = 0.1


class Member(Client):
    """A client that never blocks once its handshake was sent."""

    __slots__ = ("_head", "is_in", "name", "path", "pid")

    def __init__(self, address: str, port: int, path: str, name: str) -> None:
        self.name, self.path = name, path
        self.pid, self.is_in = 0, False
        self.reply, self._tail, self._head = b"", b"", b""
        self.sock = socket.socket()
        try:
            self.sock.settimeout(TIMEOUT)
            self.sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            self.sock.bind((address, 0))
            self.sock.connect((HOST, port))
            self.send_now = self.sock.send
            head, self._accept = upgrade_request(f"{path}?{name}")
            self.sock.sendall(head)
            self.sock.setblocking(False)
        except OSError:
            self.sock.close()
            raise

    def messages(self, data: bytes) -> list[bytes]:
        """The messages that are complete with `data`, behind the answer to the handshake."""
        if self._accept:
            self._head += data
            if b"\r\n\r\n" not in self._head:
                return []
            head, _, data = self._head.partition(b"\r\n\r\n")
            check_upgrade(head, self._accept)
            self._accept = self._head = b""
        return self.texts(data)


class Crowd:
    def __init__(self, address: str) -> None:
        self.address = address
        self.epoll = select.epoll()
        self.members: dict[int, Member] = {}
        self.wanted: deque[tuple[float, int, str, str]] = deque()
        """When to connect, to which port, path, and as whom."""
        self.under_way = 0
        self.port = 0
        self.refused = 0
        self.lost: list[Member] = []
        self.lost_at: list[float] = []
        self.reasons: Counter[str] = Counter()
        self.answers: list[str] = []
        self.seen: dict[bytes, dict[str, Any]] = {}
        self.bytes = 0
        self.last_ready = self.last_in = 0.0

    # -- commands

    def open(
        self, port: int, path: str, first: int, count: int, prefix: str = "u", spread: float = 0.0
    ) -> dict[str, Any]:
        began = time.monotonic()
        self.port = port
        for number in range(count):
            self.wanted.append((began + spread * number / count, port, path, f"{prefix}{first + number}"))
        return {"at": began}

    def reopen(self, spread: float = 0.0) -> dict[str, Any]:
        """Connect those that were lost again, by the same names; their places in the group are asked for at once."""
        began = time.monotonic()
        lost, self.lost = self.lost, []
        for number, each in enumerate(lost):
            self.wanted.append((began + spread * number / len(lost), self.port, each.path, each.name))
        return {"at": began, "count": len(lost)}

    def enter(self) -> dict[str, Any]:
        began = time.monotonic()
        frame = client_frame(TEXT, b"in")
        for each in self.members.values():
            if not each.is_in:
                each.send(frame)
        return {"at": began}

    def send(self, text: str, name: str) -> dict[str, Any]:
        [member] = [each for each in self.members.values() if each.name == name]
        began = time.monotonic()
        member.send(client_frame(TEXT, text.encode()))
        return {"at": began}

    def close(self, prefix: str) -> dict[str, Any]:
        """Those whose names begin so."""
        began = time.monotonic()
        chosen = [each for each in self.members.values() if each.name.startswith(prefix)]
        for each in chosen:
            self._remove(each)
        return {"at": began, "count": len(chosen)}

    def state(self) -> dict[str, Any]:
        pids = Counter(each.pid for each in self.members.values() if each.pid)
        return {
            "ready": sum(pids.values()),
            "in": sum(each.is_in for each in self.members.values()),
            "by_pid": list(pids.items()),
            "refused": self.refused,
            "last_ready": self.last_ready,
            "last_in": self.last_in,
            "lost": len(self.lost_at),
            "lost_first": min(self.lost_at, default=0.0),
            "lost_last": max(self.lost_at, default=0.0),
            "reasons": dict(self.reasons),
            "bytes": self.bytes,
            "answers": self.answers,
            "seen": list(self.seen.values()),
        }

    def forget(self) -> dict[str, Any]:
        """What was counted so far."""
        self.seen.clear()
        self.answers.clear()
        self.lost_at.clear()
        self.reasons.clear()
        self.bytes = self.refused = 0
        return {}

    def pid_of(self, name: str) -> dict[str, Any]:
        """The worker that one is connected to."""
        return {"pid": next((each.pid for each in self.members.values() if each.name == name), 0)}

    # -- sockets

    def run(self) -> None:
        self.epoll.register(0, select.EPOLLIN)
        commands = open(0, "rb", buffering=0)  # noqa: SIM115  # nothing read ahead, so that epoll sees what is left
        while True:
            self._connect()
            wait = 0.01 if self.wanted else -1
            for fd, _ in self.epoll.poll(wait, 256):
                if fd:
                    if fd in self.members:
                        self._read(self.members[fd])
                    continue
                line = commands.readline()
                if not line:
                    return
                command = json.loads(line)
                try:
                    answer = getattr(self, command.pop("do"))(**command)
                except (OSError, ProtocolError, ValueError) as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                print(json.dumps(answer), flush=True)

    def _connect(self) -> None:
        now = time.monotonic()
        while self.wanted and self.under_way < AHEAD and self.wanted[0][0] <= now:
            _, port, path, name = self.wanted.popleft()
            try:
                member = Member(self.address, port, path, name)
            except OSError:
                self._again(path, name)
                continue
            self.members[member.sock.fileno()] = member
            self.epoll.register(member.sock.fileno(), select.EPOLLIN)
            self.under_way += 1

    def _again(self, path: str, name: str) -> None:
        self.refused += 1
        self.wanted.append((time.monotonic() + AGAIN_SECONDS, self.port, path, name))

    def _remove(self, member: Member) -> None:
        del self.members[member.sock.fileno()]
        self.epoll.unregister(member.sock.fileno())
        member.sock.close()
        if not member.pid:
            self.under_way -= 1

    def _read(self, member: Member) -> None:
        try:
            data = member.recv(READ_SIZE)
            texts = member.messages(data)
        except (OSError, ProtocolError) as error:
            self._remove(member)
            if member.pid:
                self.lost.append(member)
                self.lost_at.append(time.monotonic())
                self.reasons[str(error)[:100]] += 1
            else:  # the handshake: its process has just died, or is full
                self._again(member.path, member.name)
            return
        self.bytes += len(data)
        for text in texts:
            if text[0] != 33:  # "!"
                self._count(text)
            elif text.startswith(b"!hello "):
                member.pid = int(text[7:])
                self.under_way -= 1
                self.last_ready = time.monotonic()
            elif text == b"!in":
                member.is_in = True
                self.last_in = time.monotonic()
            else:
                self.answers.append(text.decode())

    def _count(self, text: bytes) -> None:
        now = time.monotonic()
        found = self.seen.get(text)
        if found is None:
            self.seen[text] = {"first": now, "last": now, "count": 1, "bytes": len(text), **_look(text)}
        else:
            found["last"] = now
            found["count"] += 1


def _look(text: bytes) -> dict[str, Any]:
    """What one message is, in short."""
    if not text.startswith(b"{"):
        return {"kind": "message", "id": text[:20].decode()}
    frame = json.loads(text)
    joins, leaves = (
        sum(map(len, frame.get("joins", {}).values())),
        sum(map(len, frame.get("leaves", {}).values())),
    )
    kind = "list" if "state" in frame else "diff"
    return {"kind": kind, "id": str(frame["version"]), "joins": joins, "leaves": leaves}


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()  # it makes no cycles
    Crowd(sys.argv[1]).run()


if __name__ == "__main__":
    main()

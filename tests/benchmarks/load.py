"""The load generator: one process on a core of its own, told what to do line by line.

Plain sockets and epoll, no event loop: against the fastest peer that was as fast as picows on uvloop as a
client, and a server's figure does not depend on a library that is itself among the measured.

Each line on standard input is a JSON object with `do` and that command's arguments; each is answered by one
line: the command's result, or `{"error": …}`. Between commands pings are answered, so that sockets may wait.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import socket
import ssl
import statistics
import sys
from collections.abc import Callable, Sequence
from time import perf_counter, process_time
from typing import Any

from benchmarks import feed
from benchmarks.scenarios import JOB_NUMBER
from benchmarks.wire import (
    CLOSE,
    COMPRESSED,
    HOST,
    READ_SIZE,
    TEXT,
    TIMEOUT,
    Client,
    CompressedClient,
    HttpClient,
    NotCompressed,
    ProtocolError,
    check_upgrade,
    client_frame,
    deflated,
    upgrade_request,
)

HANDSHAKES_AT_ONCE = 32
SILENCE = 0.02
"""Seconds without a delivery after which the sender of a storm asks again whether all are there."""
FEED = 128
"""Different messages to a compressed group. Together they are more than any compressor's window."""
SAMPLED = 64
"""Every so many-th member of a compressed group reads all that it gets."""
PACE = 5
"""Messages a second to a group that is nearly quiet."""
CLOSE_FRAME = client_frame(CLOSE, (1000).to_bytes(2, "big"))


class Target:
    """One server and the sockets to it: `members` carry the load, the crowd is only there.

    Args:
        port: of the server, or of that one of its processes that takes what is sent.
        spread: ports of the other processes, which share the members.
    """

    def __init__(
        self,
        port: int,
        path: str,
        payload: str,
        certificate: str | None = None,
        compressed: bool = False,
        spread: Sequence[int] = (),
    ) -> None:
        self.client = CompressedClient if compressed else Client
        self.port = port
        self.ports = tuple(spread) or (port,)
        self.spread = bool(spread)
        self.path = path
        self.payload = payload
        self.message = client_frame(TEXT, payload.encode())
        self.reply = b""
        self.tls = ssl.create_default_context(cafile=certificate) if certificate else None
        self.epoll = select.epoll()
        self.clients: dict[int, Client] = {}
        self.members: list[Client] = []
        self.sender: Client
        """Whoever sends what all members get: the first of them, or, where they are spread, a socket of its own."""
        self.feed: list[bytes] = []
        self.sent = 0
        """Messages of the feed, or jobs, so far; the next one is the sender's next."""
        self.reports: Reports | None = None
        """Where jobs are reported, where there are any."""

    def connect(self, path: str, count: int) -> list[Client]:
        opened: list[Client] = []
        while len(opened) < count:
            numbers = range(len(opened), min(len(opened) + HANDSHAKES_AT_ONCE, count))
            batch = [self.client(self.ports[number % len(self.ports)], path, self.tls) for number in numbers]
            for client in batch:
                client.finish_handshake()
                client.reply = self.reply
                self.add(client)
            opened += batch
        return opened

    def connect_alone(self, path: str, port: int) -> Client:
        """One socket besides the members, to that process."""
        client = self.client(port, path, self.tls)
        client.finish_handshake()
        self.add(client)
        return client

    def add(self, client: Client) -> None:
        self.clients[client.sock.fileno()] = client
        self.epoll.register(client.sock, select.EPOLLIN)

    def learn_reply(self, replies: int) -> None:
        """Send one message, check what comes back, and expect exactly these bytes from now on."""
        self.sender.send(self.message)
        payload, self.reply = self.members[0].frame()
        same = payload.decode() == self.payload or (
            self.path == "/json" and json.loads(payload) == json.loads(self.payload)
        )
        if not same:
            raise ProtocolError(f"sent {self.payload[:80]!r}, got back {payload[:80]!r}")
        for client in self.clients.values():
            client.reply = self.reply
        replies -= 1
        while replies:
            for fd, _ in poll(self.epoll):
                client = self.clients[fd]
                replies -= client.take(client.recv(READ_SIZE))

    def learn_feed(self, size: int) -> None:
        """Make the messages of a compressed group, and check that the first ones reach all members."""
        texts = [text.encode() for text in feed.messages(FEED, size)]
        for index, client in enumerate(self.members):
            assert isinstance(client, CompressedClient)
            client.expected = texts
            client.sampled = index % SAMPLED == 0
        sender = self.members[0]
        assert isinstance(sender, CompressedClient)
        bits = int(sender.agreed.get("client_max_window_bits") or 15)
        self.feed = [client_frame(TEXT | COMPRESSED, deflated(text, bits)) for text in texts]
        self.sent = 0
        compressed_deliveries(self, 0.0, 1)

    def take(self, client: Client, data: bytes) -> int:
        """How many replies are complete with what was read; nothing, but with TLS, is a connection's end."""
        if not data and self.tls is None:
            raise ProtocolError("the server closed a connection")
        return client.take(data)

    def answer_pings(self) -> None:
        for fd, _ in self.epoll.poll(0):
            client = self.clients[fd]
            if client.take(client.recv(READ_SIZE)):
                raise ProtocolError("a message came that nobody had asked for")

    def close(self) -> None:
        if self.reports is not None:
            self.reports.close()
        self.epoll.close()
        for client in self.clients.values():
            client.sock.close()


class Clock:
    """Measures a round of the load generator; started by being made.

    Args:
        polite: what spins lets others have the core: an engine is on it too.
    """

    def __init__(self, polite: bool = False) -> None:
        self.polite = polite
        self.ready = _ready()
        self.cpu = process_time()
        self.spun = 0.0
        self.started = perf_counter()

    def spin(self, epoll: select.epoll) -> list[tuple[int, int]]:
        """As `poll`, without ever sleeping; processor time spent in here does not count."""
        since, spun_since = perf_counter(), process_time()
        while not (events := epoll.poll(0)):
            if self.polite:
                os.sched_yield()
            if perf_counter() - since > TIMEOUT:
                raise ProtocolError(f"nothing came from the server for {TIMEOUT:.0f} s")
        self.spun += process_time() - spun_since
        return events

    def figures(self, count: int) -> dict[str, float]:
        """Stop, and what every round says: `load_busy` is what this process ran or waited for its core."""
        seconds = perf_counter() - self.started
        ran = process_time() - self.cpu - self.spun
        return {
            "count": count,
            "seconds": seconds,
            "load_cpu": ran / seconds,
            "load_busy": (ran + _ready() - self.ready) / seconds,
        }


def _ready() -> float:
    """Seconds that this process has been ready to run while somebody else had its core."""
    with open("/proc/self/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


def poll(epoll: select.epoll) -> list[tuple[int, int]]:
    events = epoll.poll(TIMEOUT)
    if not events:
        raise ProtocolError(f"nothing came from the server for {TIMEOUT:.0f} s")
    return events


def messages(target: Target, seconds: float, in_flight: int) -> dict[str, float]:
    """Echoes: every member keeps `in_flight` messages on their way.

    After `seconds` no more are sent, and the clock runs until the last reply is in: nothing may be lost, and
    a slow server's figure does not depend on where the clock cuts.
    """
    epoll, clients = target.epoll, target.clients
    members = {client.sock.fileno(): client for client in target.members}
    receive = {fd: client.recv if target.tls else client.sock.recv for fd, client in members.items()}
    size = len(target.reply)
    bursts = [target.message * n for n in range(in_flight + 1)]
    replies = [target.reply * n for n in range(in_flight + 2)]
    outstanding = len(members) * in_flight
    count = 0
    clock = Clock()
    end = clock.started + seconds
    for client in members.values():
        client.send(bursts[in_flight])
    while outstanding:
        for fd, _ in poll(epoll):
            client = clients[fd]
            if fd not in receive:
                client.take(client.recv(READ_SIZE))
                continue
            data = receive[fd](READ_SIZE)
            got = len(data) // size
            if client.has_tail() or data != replies[got] or not got:
                got = target.take(client, data)
            if got:
                count += got
                if perf_counter() < end:
                    client.send(bursts[got])
                else:
                    outstanding -= got
    return clock.figures(count)


def deliveries(target: Target, seconds: float, in_flight: int) -> dict[str, float]:
    """A group: the first member keeps `in_flight` group messages on their way; every member's copies count.

    The clock stops as in `messages`. It spins instead of sleeping: a server that wakes somebody with every
    write spends more time on that than on the write, and in earnest its members are on other machines.
    """
    epoll, clients = target.epoll, target.clients
    receive = {fd: client.sock.recv for fd, client in clients.items()}
    sender, message, group = target.sender, target.message, len(target.members)
    size = len(target.reply)
    replies = [target.reply * n for n in range(in_flight + 2)]
    sent = in_flight
    count = 0
    refill = group  # with that many deliveries the oldest message is through, and the next may go
    clock = Clock(polite=target.spread)
    end = clock.started + seconds
    sender.send(message * in_flight)
    while count < sent * group:
        for fd, _ in epoll.poll(0) or clock.spin(epoll):
            data = receive[fd](READ_SIZE)
            got = len(data) // size
            client = clients[fd]
            # A member that lags behind the others may have more waiting than the window holds.
            if client.has_tail() or not 0 < got < len(replies) or data != replies[got]:
                got = target.take(client, data)
            count += got
        if count >= refill and perf_counter() < end:
            through = (count - refill) // group + 1
            refill += through * group
            sent += through
            sender.send(message * through)
    return clock.figures(count)


def paced(target: Target, seconds: float) -> dict[str, float]:
    """A group that is nearly quiet: PACE messages a second, and for each delivery the ms since it was sent."""
    epoll, clients = target.epoll, target.clients
    receive = {fd: client.sock.recv for fd, client in clients.items()}
    sender, message, group, reply = target.sender, target.message, len(target.members), target.reply
    waits: list[float] = []
    clock = Clock(polite=True)
    for number in range(max(1, round(seconds * PACE))):
        due = clock.started + number / PACE
        while (left := due - perf_counter()) > 0:
            for fd, _ in epoll.poll(left):
                if clients[fd].take(clients[fd].recv(READ_SIZE)):
                    raise ProtocolError("a message came that nobody had asked for")
        sent_at = perf_counter()
        sender.send(message)
        count = 0
        while count < group:
            for fd, _ in epoll.poll(0) or clock.spin(epoll):
                data = receive[fd](READ_SIZE)
                got = 1 if data == reply and not clients[fd].has_tail() else target.take(clients[fd], data)
                waits += [perf_counter() - sent_at] * got
                count += got
    return clock.figures(len(waits)) | {
        "median_ms": statistics.median(waits) * 1e3,
        "p99_ms": sorted(waits)[len(waits) * 99 // 100] * 1e3,
    }


def jobs(target: Target, seconds: float) -> dict[str, float]:
    """Every member keeps one job on its way: it sends the next one when a worker has reported that one.

    The clock stops as in `messages`. A job that is done once more counts once, and is told.
    """
    senders, reports = target.members, target.reports
    assert reports is not None
    waiting: dict[bytes, int] = {}
    count = number = twice = 0

    def send(member: int) -> None:
        nonlocal number
        mark = f"{target.sent + number:0{JOB_NUMBER}}"
        number += 1
        waiting[mark.encode()] = member
        senders[member].send(client_frame(TEXT, (mark + target.payload[JOB_NUMBER:]).encode()))

    clock = Clock()
    end = clock.started + seconds
    for member in range(len(senders)):
        send(member)
    while waiting:
        if perf_counter() > end + TIMEOUT:
            raise ProtocolError(f"{len(waiting)} jobs are not done; {twice} of others are done again")
        for mark in reports.read():
            if mark not in waiting:
                if int(mark) >= target.sent + number:
                    raise ProtocolError(f"job {mark!r} is done, and was never sent")
                twice += 1
                continue
            member = waiting.pop(mark)
            count += 1
            if perf_counter() < end:
                send(member)
    target.sent += number
    return clock.figures(count) | {"twice": twice}


class Reports:
    """Where workers say which jobs are done: a Unix socket that they connect to."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._tails: dict[socket.socket, bytes] = {}
        self.epoll = select.epoll()
        self.epoll.register(self._listener, select.EPOLLIN)
        self._socks: dict[int, socket.socket] = {}

    def read(self) -> list[bytes]:
        """Wait for reports: the marks of jobs."""
        found: list[bytes] = []
        for fd, _ in poll(self.epoll):
            if fd == self._listener.fileno():
                sock, _ = self._listener.accept()
                self._socks[sock.fileno()] = sock
                self._tails[sock] = b""
                self.epoll.register(sock, select.EPOLLIN)
                continue
            sock = self._socks[fd]
            data = sock.recv(READ_SIZE)
            if not data:
                raise ProtocolError("a worker has ended")
            data = self._tails[sock] + data
            whole = len(data) // JOB_NUMBER * JOB_NUMBER
            found += [data[at : at + JOB_NUMBER] for at in range(0, whole, JOB_NUMBER)]
            self._tails[sock] = data[whole:]
        return found

    def close(self) -> None:
        for sock in (self._listener, *self._tails):
            sock.close()
        self.epoll.close()


def compressed_deliveries(target: Target, seconds: float, in_flight: int) -> dict[str, float]:
    """As `deliveries`, with messages that vary, and with the bytes that came for them.

    Frames are counted at all members. The sampled ones inflate each message and compare it with what was
    sent; elsewhere, bytes that have just been counted at another member are not taken apart again.
    """
    epoll, clients = target.epoll, target.clients
    receive = {fd: client.sock.recv for fd, client in clients.items()}
    sampled = {
        fd for fd, client in clients.items() if isinstance(client, CompressedClient) and client.sampled
    }
    sender, group = target.members[0], len(target.members)
    known: dict[bytes, int] = {}
    sent, count, received = in_flight, 0, 0
    refill = group

    def send(more: int) -> None:
        first = target.sent
        target.sent += more
        sender.send(b"".join([target.feed[number % FEED] for number in range(first, first + more)]))

    clock = Clock()
    end = clock.started + seconds
    send(in_flight)
    while count < sent * group:
        for fd, _ in poll(epoll):
            data = receive[fd](READ_SIZE)
            received += len(data)
            client = clients[fd]
            if fd in sampled or client.has_tail():
                got = target.take(client, data)
            else:
                found = known.get(data)
                if found is None:
                    found = target.take(client, data)
                    if not client.has_tail():
                        if len(known) > 4 * FEED:
                            known.clear()
                        known[data] = found
                got = found
            count += got
        if count >= refill and perf_counter() < end:
            through = (count - refill) // group + 1
            refill += through * group
            sent += through
            send(through)
    return clock.figures(count) | {"wire_bytes": received / count}


def storm(target: Target) -> dict[str, float]:
    """All members go at once and come back at once: until a message to their group reaches each of them.

    Whether it does is asked by sending one, numbered; when nothing has come for a moment, by another.
    """
    group = len(target.members)
    request = upgrade_request(target.path)
    for client in target.clients.values():
        client.sock.close()  # and epoll forgets it
    target.clients.clear()
    arriving: dict[int, Client] = {}
    clock = Clock()
    for _ in range(group):
        client = Client(target.port, target.path, None, request)
        arriving[client.sock.fileno()] = client
        target.epoll.register(client.sock, select.EPOLLIN)
    members: list[Client] = []
    while arriving:
        for fd, _ in poll(target.epoll):
            client = arriving.pop(fd)
            client.finish_handshake()
            members.append(client)
    connected = perf_counter() - clock.started
    target.clients = {client.sock.fileno(): client for client in members}
    target.members = members
    reached = [0]
    waited = 0.0
    members[0].send(client_frame(TEXT, b"storm 0"))
    while group not in reached:
        events = target.epoll.poll(SILENCE)
        if not events:
            waited += SILENCE
            if waited > TIMEOUT:
                raise ProtocolError(f"of {group} clients at most {max(reached)} are members again")
            members[0].send(client_frame(TEXT, b"storm %d" % len(reached)))
            reached.append(0)
        _count_numbers(target, events, reached)
    figures = clock.figures(group)
    while len(reached) > 1 and (events := target.epoll.poll(5 * SILENCE)):  # what else was asked is answered
        _count_numbers(target, events, reached)
    return figures | {
        "ms": figures["seconds"] * 1e3,
        "connected_ms": connected * 1e3,
        "asked": len(reached),
    }


def _count_numbers(target: Target, events: list[tuple[int, int]], reached: list[int]) -> None:
    for fd, _ in events:
        client = target.clients[fd]
        for payload in client.texts(client.recv(READ_SIZE)):
            word, _, number = payload.partition(b" ")
            if word != b"storm" or not 0 <= int(number) < len(reached):
                raise ProtocolError(f"expected a numbered message, got {payload[:80]!r}")
            reached[int(number)] += 1


def requests(target: Target, seconds: float, at_once: int) -> dict[str, float]:
    """`at_once` keep-alive connections, each asking anew when its answer is there and checked."""
    epoll = select.epoll()
    clients: dict[int, HttpClient] = {}
    size = 0
    for _ in range(at_once):
        client = HttpClient(target.port, target.path)
        if json.loads(client.learn()) != json.loads(target.payload):
            raise ProtocolError(f"expected the JSON {target.payload}, got {client.body!r}")
        clients[client.sock.fileno()] = client
        epoll.register(client.sock, select.EPOLLIN)
    request, body = client.request, client.body
    receive = {fd: client.sock.recv for fd, client in clients.items()}
    send = {fd: client.sock.send for fd, client in clients.items()}
    count, outstanding = 0, at_once
    clock = Clock()
    end = clock.started + seconds
    for fd in clients:
        send[fd](request)
    while outstanding:
        for fd, _ in poll(epoll):
            data = receive[fd](READ_SIZE)
            # An answer of a length that was read in full before, with the same body at its end, is one.
            if len(data) != size or not data.endswith(body) or not data.startswith(b"HTTP/1.1 200"):
                if not clients[fd].take(data):
                    continue
                size = len(data)
            count += 1
            if perf_counter() < end:
                send[fd](request)
            else:
                outstanding -= 1
    figures = clock.figures(count)
    epoll.close()
    for client in clients.values():
        client.sock.close()
    return figures


def latency(target: Target, seconds: float) -> dict[str, float]:
    """One member, one message at a time: the round trips' median and 99th percentile in µs."""
    epoll, clients, member = target.epoll, target.clients, target.members[0]
    own, receive, send = member.sock.fileno(), member.sock.recv, member.sock.send
    message, reply = target.message, target.reply
    trips: list[float] = []
    clock = Clock()
    end = clock.started + seconds
    while (sent_at := perf_counter()) < end:
        send(message)
        back = 0
        while not back:
            for fd, _ in poll(epoll):
                if fd == own:
                    data = receive(READ_SIZE)
                    back = 1 if data == reply else target.take(member, data)
                else:
                    clients[fd].take(clients[fd].recv(READ_SIZE))
        trips.append(perf_counter() - sent_at)
    return clock.figures(len(trips)) | {
        "median_us": statistics.median(trips) * 1e6,
        "p99_us": sorted(trips)[len(trips) * 99 // 100] * 1e6,
    }


class Visit:
    """One client of `connects`: handshake, one echo, closing handshake, the server's end of TCP."""

    __slots__ = ("buffer", "sock", "step")

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self.sock = socket.socket()
        self.sock.connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.send(request)
        self.buffer = b""
        self.step = "handshake"

    def go_on(self, target: Target, accept: bytes) -> bool:
        """Deal with what has arrived; True when the visit is over."""
        data = self.sock.recv(READ_SIZE)
        self.buffer += data
        if self.step == "closing":
            if data:
                return False
            if self.buffer[:1] != b"\x88":
                raise ProtocolError(f"expected a close frame and the end, got {self.buffer[:80]!r}")
            self.sock.close()
            return True
        if not data:
            raise ProtocolError(f"the server closed during {self.step}, after {self.buffer[:200]!r}")
        if self.step == "handshake":
            if b"\r\n\r\n" in self.buffer:
                check_upgrade(self.buffer, accept)
                self._next("echo", target.message)
        elif self.buffer == target.reply:
            self._next("closing", CLOSE_FRAME)
        elif not target.reply.startswith(self.buffer):
            raise ProtocolError(f"expected {target.reply[:40]!r}, got {self.buffer[:80]!r}")
        return False

    def _next(self, step: str, message: bytes) -> None:
        self.sock.send(message)
        self.buffer, self.step = b"", step


def connects(target: Target, seconds: float, at_once: int) -> dict[str, float]:
    """`at_once` clients, each making one `Visit` after the other."""
    epoll = select.epoll()
    request, accept = upgrade_request(target.path)
    visits: dict[int, Visit] = {}

    def begin() -> None:
        visit = Visit((HOST, target.port), request)
        visits[visit.sock.fileno()] = visit
        epoll.register(visit.sock, select.EPOLLIN)

    count = 0
    clock = Clock()
    end = clock.started + seconds
    for _ in range(at_once):
        begin()
    while visits:
        for fd, _ in poll(epoll):
            if visits[fd].go_on(target, accept):
                del visits[fd]
                count += 1
                if perf_counter() < end:
                    begin()
    figures = clock.figures(count)
    epoll.close()
    return figures


class Generator:
    """Carries out the commands; `targets` by the name that `open` gave them."""

    def __init__(self) -> None:
        self.targets: dict[str, Target] = {}

    def open(
        self,
        target: str,
        port: int,
        path: str,
        payload: str,
        members: int,
        group: bool,
        certificate: str | None,
        compressed: bool,
        spread: Sequence[int] = (),
        bystander: int = 0,
        reports: str = "",
    ) -> dict[str, Any]:
        """`members` sockets to one server; none for plain HTTP, whose clients come with each round.

        `spread` are further processes of the server, which share the members, `bystander` the port of one without
        any; `reports` is where workers report jobs.
        """
        if target in self.targets:  # an earlier server of the same name, ended by now
            self.targets.pop(target).close()
        opened = self.targets[target] = Target(port, path, payload, certificate, compressed, spread)
        if reports:
            opened.reports = Reports(reports)
        opened.members = opened.connect(path, members)
        if not members or reports:
            return {"tls": None}
        opened.sender = opened.connect_alone("/send", port) if spread else opened.members[0]
        if bystander:
            opened.connect_alone("/other", bystander)
        # A member may join its group a moment after its handshake; peers differ in that.
        select.select([], [], [], 0.2)
        if compressed:
            opened.learn_feed(len(payload))
        else:
            opened.learn_reply(members if group else 1)
        sock = opened.members[0].sock
        return {"tls": sock.cipher() if isinstance(sock, ssl.SSLSocket) else None}

    def crowd(self, target: str, count: int) -> dict[str, Any]:
        self._find(target).connect("/echo", count)
        return {}

    def alive(self, target: str) -> dict[str, Any]:
        """How many sockets are open; a server that has closed one fails here."""
        opened = self._find(target)
        opened.answer_pings()
        return {"sockets": len(opened.clients)}

    def measure(self, target: str, what: str, **arguments: Any) -> dict[str, float]:
        measures: dict[str, Callable[..., dict[str, float]]] = {
            "messages": messages,
            "deliveries": deliveries,
            "compressed": compressed_deliveries,
            "connects": connects,
            "storm": storm,
            "requests": requests,
            "latency": latency,
            "paced": paced,
            "jobs": jobs,
            "bystander": deliveries,
        }
        return measures[what](self._find(target), **arguments)

    def _find(self, name: str) -> Target:
        if name not in self.targets:
            raise ProtocolError(f"the sockets to {name!r} are gone: the server closed one between two rounds")
        return self.targets[name]

    def wait_for_input(self) -> None:
        """Until a command is there, answer the pings of all sockets."""
        while True:
            waiting = select.epoll()
            waiting.register(0, select.EPOLLIN)
            names = {opened.epoll.fileno(): name for name, opened in self.targets.items()}
            for fd in names:
                waiting.register(fd, select.EPOLLIN)  # an epoll descriptor is readable when it has events
            ready = [fd for fd, _ in waiting.poll()]
            waiting.close()
            if 0 in ready:
                return
            for fd in ready:
                try:
                    self.targets[names[fd]].answer_pings()
                except (OSError, ProtocolError):
                    # Its server is gone or at fault; the next command to it says so.
                    self.targets[names[fd]].epoll.close()
                    del self.targets[names[fd]]


def main() -> None:
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, {int(sys.argv[1])})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()  # it makes no cycles, and a collection in mid-round would be the server's loss
    generator = Generator()
    commands = open(0, "rb", buffering=0)  # noqa: SIM115  # nothing read ahead, so that epoll sees what is left
    while True:
        generator.wait_for_input()
        line = commands.readline()
        if not line:
            return
        command = json.loads(line)
        try:
            answer = getattr(generator, command.pop("do"))(**command)
        except (OSError, ProtocolError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
            if isinstance(error, NotCompressed):
                answer["missing"] = True
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

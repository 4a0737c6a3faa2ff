"""Where a server listens: several places at once, and sockets that it was started with."""

from __future__ import annotations

import errno
import http.client
import os
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from command_line import SECONDS, Served, environment, folder, get, served
from raw_clients import descriptors
from raw_clients import get as ask

from triochan import route, serve
from triochan.exceptions import CannotListen, ImproperlyConfigured
from triochan.http import text
from triochan.wire.binds import Bind, parse_binds
from triochan.wire.listeners import open_binds

__all__ = ["folder", "served"]
"""Fixtures."""


async def hello(message: Any) -> Any:
    return text("hello")


ROUTING = [route("http.request", hello)]
TRIOCHAN = (sys.executable, "-m", "triochan")
ACTIVATED = ("sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *TRIOCHAN)
"""As systemd starts it: with LISTEN_PID of the very process."""


def over(connect: Callable[[], socket.socket]) -> bytes:
    connection = http.client.HTTPConnection("localhost", timeout=SECONDS)
    connection.sock = connect()
    connection.sock.settimeout(SECONDS)
    return get(connection)


def over_tcp(port: int, host: str = "127.0.0.1") -> bytes:
    return over(lambda: socket.create_connection((host, port), SECONDS))


def over_unix(path: Path) -> bytes:
    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        return sock

    return over(connect)


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def unix(folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "inherited"))
        sock.listen()
        yield sock


# -- several places, as a library


async def test_several_binds(tmp_path: Path) -> None:
    before = descriptors()
    with socket.create_server(("127.0.0.1", 0)) as given:
        inherited = socket.create_server(("127.0.0.1", 0)).detach()
        async with trio.open_nursery() as nursery:
            binds = ["127.0.0.1:0", "[::1]:0", f"unix:{tmp_path / 'socket'}", f"fd://{inherited}"]
            addresses = await nursery.start(partial(serve, ROUTING, bind=binds, sockets=[given]))
            hosts = [address.host for address in addresses]
            assert hosts == ["127.0.0.1", "127.0.0.1", "::1", "", "127.0.0.1"]
            assert addresses[3].path == str(tmp_path / "socket")
            for address in addresses:
                if ":" in address.host:
                    await (await trio.open_tcp_stream(address.host, address.port)).aclose()
                else:
                    assert (await ask(address)).body == b"hello"
            nursery.cancel_scope.cancel()
        assert given.fileno() == -1
    assert not (tmp_path / "socket").exists()
    assert descriptors() == before


async def test_one_that_fails_leaves_none(tmp_path: Path, tcp: socket.socket) -> None:
    before = descriptors()
    port = tcp.getsockname()[1]
    given = socket.create_server(("127.0.0.1", 0))
    binds = [f"unix:{tmp_path / 'socket'}", "127.0.0.1:0", f"127.0.0.1:{port}"]
    with pytest.raises(CannotListen) as caught:
        await serve(ROUTING, bind=binds, sockets=[given])
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.EADDRINUSE
    assert str(caught.value).startswith(f"can't listen on 127.0.0.1:{port}: the port is in use; stop ")
    assert not (tmp_path / "socket").exists()
    assert given.fileno() == -1
    assert descriptors() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bind": "localhost"}, "'localhost' is not where one can listen"),
        ({"bind": "127.0.0.1:0", "port": 80}, "take the place of host=, port= and uds="),
        ({"bind": "127.0.0.1:0", "uds": "socket"}, "take the place of host=, port= and uds="),
        ({"bind": ["unix:a", "unix:a"]}, "is to be listened on twice"),
    ],
)
async def test_what_does_not_go_together(options: Any, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        await serve(ROUTING, **options)


async def test_sockets_that_are_refused_are_closed() -> None:
    before = descriptors()
    given = [socket.create_server(("127.0.0.1", 0)), socket.socket()]
    with pytest.raises(CannotListen):
        await serve(ROUTING, sockets=given)
    with pytest.raises(ImproperlyConfigured):
        await serve(ROUTING, sockets=[socket.create_server(("127.0.0.1", 0))], port=1)
    assert descriptors() == before


async def test_both_families_may_have_the_same_port() -> None:
    """``[::]`` takes IPv4 too, unless another place does."""
    for _ in range(10):  # a port may be taken between the two
        with socket.create_server(("0.0.0.0", 0)) as free:
            port = free.getsockname()[1]
        try:
            opened = await open_binds(parse_binds([f"[::]:{port}", f"0.0.0.0:{port}"]), "http")
        except CannotListen:
            continue
        break
    assert [address.host for _, address in opened] == ["::", "0.0.0.0"]
    for listener, _ in opened:
        listener.close()
    [(listener, _)] = await open_binds([Bind("::", 0)], "http")
    with listener:
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])).close()


# -- several places, on the command line


def test_the_start_line_names_each(served: Callable[..., Served], folder: Path) -> None:
    places = ("127.0.0.1:0", "[::1]:0", "unix:socket")
    server = served("hello:routing", *(f"--bind={each}" for each in places), "--uds-mode", "600")
    one, two, three = server.urls
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", one)
    assert re.fullmatch(r"http://\[::1\]:\d+", two)
    assert three == "http+unix:socket"
    assert over_tcp(int(one.rpartition(":")[2])) == b"hello"
    assert over_tcp(int(two.rpartition(":")[2]), "::1") == b"hello"
    assert over_unix(folder / "socket") == b"hello"
    assert (folder / "socket").stat().st_mode & 0o777 == 0o600
    assert server.end()[0] == 0
    assert not (folder / "socket").exists()


def fails(folder: Path, *arguments: str, command: tuple[str, ...] = TRIOCHAN, **options: Any) -> str:
    """What a command line that can't be served says on stderr."""
    ended: subprocess.CompletedProcess[str] = subprocess.run(
        [*command, "hello:routing", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False,
        env={**environment(), **options.pop("env", {})}, **options,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    return ended.stderr


def test_a_busy_port_among_several(folder: Path, tcp: socket.socket) -> None:
    port = tcp.getsockname()[1]
    said = fails(folder, "--bind", "unix:socket", "--bind", f"127.0.0.1:{port}")
    assert said == (
        f"triochan: error: can't listen on 127.0.0.1:{port}: the port is in use; "
        "stop the program that has it, or give another (0 picks one)\n"
    )
    assert not (folder / "socket").exists()


def test_tls_on_all(served: Callable[..., Served], folder: Path) -> None:
    issued = trustme.CA().issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    server = served(
        "hello:routing", "--bind", "127.0.0.1:0", "--bind", "unix:socket", "--ssl-certfile", "both.pem"
    )
    assert [url.partition(":")[0] for url in server.urls] == ["https", "https+unix"]
    assert server.end()[0] == 0


# -- inherited sockets


@pytest.mark.parametrize("option", ["--fd={}", "--bind=fd://{}"])
def test_a_descriptor(served: Callable[..., Served], tcp: socket.socket, option: str) -> None:
    number, port = tcp.fileno(), tcp.getsockname()[1]
    server = served("hello:routing", option.format(number), pass_fds=[number])
    assert server.url == f"http://127.0.0.1:{port}"
    assert over_tcp(port) == b"hello"
    assert server.end()[0] == 0
    # The socket lives on, and a client that comes meanwhile waits for the next server.
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as early:
        early.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        next_one = served("hello:routing", option.format(number), pass_fds=[number])
        assert early.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert next_one.end()[0] == 0


def test_an_inherited_unix_socket_keeps_its_file(
    served: Callable[..., Served], folder: Path, unix: socket.socket, tcp: socket.socket
) -> None:
    numbers = [unix.fileno(), tcp.fileno()]
    server = served("hello:routing", *(f"--fd={each}" for each in numbers), pass_fds=numbers)
    assert server.urls == [f"http+unix:{folder / 'inherited'}", f"http://127.0.0.1:{tcp.getsockname()[1]}"]
    assert over_unix(folder / "inherited") == b"hello"
    assert server.end()[0] == 0
    assert (folder / "inherited").exists()


@pytest.fixture
def as_systemd(tcp: socket.socket, unix: socket.socket) -> dict[str, Any]:
    """Starts a process with the two sockets as descriptors 3 and 4."""

    def arrange() -> None:
        here = [os.dup(each.fileno()) for each in (tcp, unix)]
        for number, sock in zip((3, 4), here, strict=True):
            os.dup2(sock, number)

    return {
        "preexec_fn": arrange,
        "close_fds": False,
        "env": {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:local"},
    }


TELLING = """
    import os, subprocess, sys
    from triochan import route
    from triochan.http import json

    async def tell(message):
        look = (
            "import os; print([name for name in os.environ if name.startswith('LISTEN_')],"
            " os.path.exists('/proc/self/fd/4'))"
        )
        child = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, close_fds=False)
        return json(child.stdout)

    routing = [route("http.request", tell)]
"""


def test_as_systemd_hands_them_over(
    served: Callable[..., Served],
    folder: Path,
    tcp: socket.socket,
    unix: socket.socket,
    as_systemd: dict[str, Any],
) -> None:
    (folder / "telling.py").write_text(textwrap.dedent(TELLING))
    server = served("telling:routing", command=ACTIVATED, **as_systemd)
    assert server.urls == [f"http://127.0.0.1:{tcp.getsockname()[1]}", f"http+unix:{folder / 'inherited'}"]
    # Neither the variables nor the descriptors reach children.
    assert over_tcp(tcp.getsockname()[1]) == over_unix(folder / "inherited") == rb'"[] False\n"'
    assert server.end()[0] == 0
    assert (folder / "inherited").exists()


def test_beside_other_places(served: Callable[..., Served], as_systemd: dict[str, Any]) -> None:
    """What is asked for beside it is served too; a descriptor that is named twice is one."""
    server = served("hello:routing", "--fd", "3", "--bind", "127.0.0.1:0", command=ACTIVATED, **as_systemd)
    assert len(server.urls) == 3
    assert server.end()[0] == 0


def test_sockets_of_another_process_are_left(served: Callable[..., Served], folder: Path) -> None:
    server = served("hello:routing", "--port", "0", env={"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
    assert over_tcp(server.port) == b"hello"
    assert server.end()[0] == 0


@pytest.mark.parametrize(
    ("arguments", "count", "said"),
    [
        (
            ["--fd", "87"],
            "",
            "can't listen on descriptor 87: it is closed; what is expected is a socket that ",
        ),
        (["--fd", "0"], "", "can't listen on descriptor 0: it is a terminal or another device; "),
        ([], "1", "can't listen on descriptor 3 (web): it is closed; "),
        ([], "one", "the environment's LISTEN_FDS is a whole number, not 'one'"),
    ],
)
def test_one_line_says_what_a_descriptor_is(
    folder: Path, arguments: list[str], count: str, said: str
) -> None:
    text = fails(
        folder, *arguments, command=ACTIVATED, stdin=subprocess.DEVNULL,
        env={"LISTEN_FDS": count, "LISTEN_FDNAMES": "web"},
    )  # fmt: skip
    assert text.startswith(f"triochan: error: {said}")
    assert len(text.splitlines()) == 1

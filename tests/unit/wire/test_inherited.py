"""Sockets that were inherited: taken where they listen, refused with what they are where they do not."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from triochan.exceptions import CannotListen, ImproperlyConfigured
from triochan.wire import inherited
from triochan.wire.inherited import adopt, systemd_sockets
from triochan.wire.listeners import Address, address_of, take_over


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(held: ExitStack, family: socket.AddressFamily = socket.AF_INET, where: Any = None) -> int:
    """The descriptor of a socket that listens, which is nobody else's; closed at the end, unless it is by then."""
    sock = socket.socket(family)
    sock.bind(where or ("127.0.0.1", 0))
    sock.listen()
    return owned(held, sock)


def owned(held: ExitStack, sock: socket.socket) -> int:
    number = sock.detach()

    def close() -> None:
        try:
            os.close(number)
        except OSError:
            pass

    held.callback(close)
    return number


def test_tcp(held: ExitStack) -> None:
    with adopt(listening(held)) as sock:
        assert not sock.getblocking()
        assert not os.get_inheritable(sock.fileno())
        assert address_of(sock, "https") == Address("127.0.0.1", sock.getsockname()[1], scheme="https")


def test_a_unix_socket_keeps_its_file(held: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with adopt(listening(held, socket.AF_UNIX, str(path))) as sock:
        assert address_of(sock, "http") == Address(path=str(path))
    assert path.exists()


def test_an_abstract_unix_socket(held: ExitStack) -> None:
    name = f"\0triochan-{os.getpid()}"
    with adopt(listening(held, socket.AF_UNIX, name)) as sock:
        assert address_of(sock, "http").url == f"http+unix:@triochan-{os.getpid()}"


EXPECTED = "; what is expected is a socket that listens, of TCP or Unix"


def odd(kind: str, held: ExitStack, tmp_path: Path) -> int:
    """A descriptor that is no listening socket."""
    if kind == "closed":
        number = os.open(os.devnull, os.O_RDONLY)
        os.close(number)
        return number
    if kind == "file":
        return held.enter_context((tmp_path / "file").open("w")).fileno()
    if kind == "folder":
        number = os.open(tmp_path, os.O_RDONLY)
        held.callback(os.close, number)
        return number
    if kind == "pipe":
        for each in (ends := os.pipe()):
            held.callback(os.close, each)
        return ends[0]
    if kind == "device":
        return held.enter_context(open(os.devnull)).fileno()
    if kind == "eventfd":
        number = os.eventfd(0)
        held.callback(os.close, number)
        return number
    if kind == "bound":
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
    elif kind == "connected":
        sock, other = socket.socketpair()
        held.enter_context(other)
    elif kind == "udp":
        sock = socket.socket(type=socket.SOCK_DGRAM)
    elif kind == "netlink":
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    else:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return owned(held, sock)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("closed", "it is closed"),
        ("file", "it is a file"),
        ("folder", "it is a folder"),
        ("pipe", "it is a pipe"),
        ("device", "it is a terminal or another device"),
        ("eventfd", "it is no socket"),
        ("bound", "it does not listen: listen() was not called on it"),
        ("connected", "it is a connection (Accept=yes in a unit, or inetd)"),
        ("udp", "it is a socket of datagrams (UDP, or ListenDatagram= in a unit)"),
        ("seqpacket", "it is a socket of packets (ListenSequentialPacket= in a unit)"),
        ("netlink", "it is a socket of no streams"),
    ],
)
def test_what_is_no_listening_socket(kind: str, said: str, held: ExitStack, tmp_path: Path) -> None:
    number = odd(kind, held, tmp_path)
    with pytest.raises(CannotListen) as caught:
        adopt(number)
    assert str(caught.value) == f"can't listen on descriptor {number}: {said}{EXPECTED}"
    assert caught.value.errno
    if kind != "closed":
        os.fstat(number)  # it is left as it was


def test_a_family_that_is_not_served(held: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inherited, "_FAMILIES", {socket.AF_UNIX})
    with pytest.raises(CannotListen, match="it is a socket of another family; "):
        adopt(listening(held))


def test_a_number_beyond_all() -> None:
    with pytest.raises(CannotListen, match="descriptor 4294967296: it is closed"):
        adopt(2**32)


# -- as systemd hands them over


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch, held: ExitStack) -> int:
    """Two sockets that listen, one number after the other; the first of them stands for systemd's first."""
    one, two = listening(held), listening(held)
    if two != one + 1:
        pytest.skip("the descriptors that are free are no neighbours")
    monkeypatch.setattr(inherited, "FIRST", one)
    return one


def variables(count: str, process: str | None = None, **more: str) -> dict[str, str]:
    return {"LISTEN_FDS": count, "LISTEN_PID": process or str(os.getpid()), "PATH": "/bin", **more}


def test_those_of_this_process(first: int) -> None:
    environment = variables("2", LISTEN_FDNAMES="web:admin")
    sockets = systemd_sockets(environment)
    assert [each.fileno() for each in sockets] == [first, first + 1]
    assert environment == {"PATH": "/bin"}
    for each in sockets:
        each.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getppid())},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_none(environment: dict[str, str]) -> None:
    assert systemd_sockets(environment) == []
    assert environment == {}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (variables("many"), "the environment's LISTEN_FDS is a whole number, not 'many'"),
        (variables("-1"), "the environment's LISTEN_FDS is a whole number, not '-1'"),
        (variables("9" * 50), "LISTEN_FDS is a whole number"),
        (variables("1", "me"), "the environment's LISTEN_PID is a whole number, not 'me'"),
    ],
)
def test_variables_that_are_no_numbers(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        systemd_sockets(environment)
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize(("names", "said"), [("web:admin", " (admin)"), ("web", ""), ("", "")])
def test_an_error_names_it_as_systemd_does(first: int, names: str, said: str) -> None:
    os.close(first + 1)
    with pytest.raises(CannotListen, match=re.escape(f"descriptor {first + 1}{said}: it is closed")):
        systemd_sockets(variables("2", LISTEN_FDNAMES=names))
    with pytest.raises(OSError):
        os.fstat(first)  # what was taken is closed again


# -- those that a program gives


def test_what_a_program_gives() -> None:
    with socket.create_server(("127.0.0.1", 0)) as good, socket.socket() as bad:
        assert take_over([good], "http") == [(good, Address("127.0.0.1", good.getsockname()[1]))]
        assert not good.getblocking()
        with pytest.raises(CannotListen, match="socket 1 of those given: it does not listen"):
            take_over([good, bad], "http")
        assert good.fileno() == bad.fileno() == -1
        with pytest.raises(CannotListen, match="socket 0 of those given: it is closed"):
            take_over([bad], "http")
        with pytest.raises(ImproperlyConfigured, match=r"sockets takes socket.socket objects .*, not 3"):
            take_over([3], "http")  # type: ignore[list-item]

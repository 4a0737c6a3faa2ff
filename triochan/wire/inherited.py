"""Listening sockets that a process was started with: by descriptor, or as systemd hands them over."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import MutableMapping

from ..exceptions import CannotListen, ImproperlyConfigured

FIRST = 3
"""Where systemd's begin (SD_LISTEN_FDS_START)."""
VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
_EXPECTED = "what is expected is a socket that listens, of TCP or Unix"
_FAMILIES = {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", None)}
_KINDS = {
    socket.SOCK_DGRAM: "of datagrams (UDP, or ListenDatagram= in a unit)",
    getattr(socket, "SOCK_SEQPACKET", -1): "of packets (ListenSequentialPacket= in a unit)",
}


def adopt(descriptor: int, name: str = "") -> socket.socket:
    """The listening socket that was inherited as ``descriptor``, which is the new object's from now on.

    It is not inherited further, and does not block.

    Args:
        descriptor: its number.
        name: what systemd calls it; for errors.

    Raises:
        CannotListen: it is closed, no socket, none of streams, or does not listen; it is left as it was.
    """
    where = f"descriptor {descriptor}{f' ({name})' if name else ''}"
    try:
        mode = os.fstat(descriptor).st_mode
    except (OSError, OverflowError):
        raise CannotListen(errno.EBADF, f"it is closed; {_EXPECTED}", where) from None
    if not stat.S_ISSOCK(mode):
        raise CannotListen(errno.ENOTSOCK, f"it is {_kind(mode)}; {_EXPECTED}", where)
    sock = socket.socket(fileno=descriptor)
    try:
        check(sock, where)
        sock.set_inheritable(False)
        sock.setblocking(False)
    except BaseException:
        sock.detach()
        raise
    return sock


def check(sock: socket.socket, where: str) -> None:
    """See that a socket takes connections.

    Raises:
        CannotListen: it does not.
    """
    if sock.fileno() < 0:
        raise CannotListen(errno.EBADF, f"it is closed; {_EXPECTED}", where)
    kind = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    if kind != socket.SOCK_STREAM:
        what = _KINDS.get(kind, "of no streams")
        raise CannotListen(errno.ESOCKTNOSUPPORT, f"it is a socket {what}; {_EXPECTED}", where)
    if sock.family not in _FAMILIES:
        raise CannotListen(errno.EAFNOSUPPORT, f"it is a socket of another family; {_EXPECTED}", where)
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        why = (
            "it is a connection (Accept=yes in a unit, or inetd)"
            if _is_connected(sock)
            else "it does not listen: listen() was not called on it"
        )
        raise CannotListen(errno.EINVAL, f"{why}; {_EXPECTED}", where)


def systemd_sockets(environment: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The sockets that systemd, or another who speaks its protocol, has started this process with; none where nobody
    has. For ``triochan.serve(…, sockets=triochan.systemd_sockets())``.

    The variables ``LISTEN_FDS``, ``LISTEN_PID`` and ``LISTEN_FDNAMES`` are removed from the environment in any case, so
    that no child process takes them for its own. To be called once, before the program starts threads or processes.

    Source: sd_listen_fds(3).

    Raises:
        ImproperlyConfigured: the variables hold no numbers.
        CannotListen: a descriptor is closed, no socket, none of streams, or does not listen. Those before it
            are closed.
    """
    count, process, names = (environment.pop(name, "") for name in VARIABLES)
    if not count or not process:
        return []
    for name, text in (("LISTEN_FDS", count), ("LISTEN_PID", process)):
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise ImproperlyConfigured(f"the environment's {name} is a whole number, not {text!r}")
    if int(process) != os.getpid():
        return []  # they are another process's: a parent's that has not removed them
    called = names.split(":") if names else []
    with contextlib.ExitStack() as unwind:
        sockets = [
            unwind.enter_context(adopt(FIRST + index, called[index] if index < len(called) else ""))
            for index in range(int(count))
        ]
        unwind.pop_all()
    return sockets


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _kind(mode: int) -> str:
    for test, kind in (
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISCHR, "a terminal or another device"),
    ):
        if test(mode):
            return kind
    return "no socket"

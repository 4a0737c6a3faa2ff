"""Sockets that listen, and the TLS handshake on those they accept."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from ..exceptions import CannotListen, ImproperlyConfigured
from .binds import Bind, place
from .inherited import adopt, check
from .proxy_protocol import ProxyHeader, ProxyProtocolError, parse_proxy_header
from .tls import TlsSocket

BACKLOG = 2048
_PEEK = 4096

_LOCK_SECONDS = 1.0
"""How long another start in the same folder is waited for."""
_LOCK_PAUSE = 0.01
_SHARED_PORT_TRIES = 16
"""Free ports of the first address that are tried for the others."""
_NO_SUCH_FAMILY = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


@attrs.frozen
class Address:
    """Where a server listens.

    Attributes:
        host, port: of a TCP socket; the port is the one that was picked where 0 was asked for. A link-local host has
            its zone behind it, ``fe80::1%eth0``.
        path: of a Unix socket, else None.
        scheme: ``"http"`` or ``"https"``.
    """

    host: str = ""
    port: int = 0
    path: str | None = None
    scheme: str = "http"

    @property
    def url(self) -> str:
        """As clients take it: IPv6 in brackets, its zone as RFC 6874 has it; of a Unix socket, the path behind the
        scheme."""
        if self.path is not None:
            return f"{self.scheme}+unix:{self.path.replace(chr(0), '@', 1)}"
        return f"{self.scheme}://{place(self.host.replace('%', '%25'), self.port)}"

    def __str__(self) -> str:
        return self.url


Listener = tuple[socket.socket, Address]


async def open_binds(binds: Sequence[Bind], scheme: str, *, uds_mode: int | None = None) -> list[Listener]:
    """Non-blocking listening sockets, in the order of ``binds``; see :func:`open_listeners`.

    ``[::]`` takes IPv4 as well, unless another of ``binds`` takes the same port by IPv4.

    Raises:
        CannotListen: one can't be had. Those opened before it are closed, and their files removed.
        ImproperlyConfigured: a host or a port that is none, or ``uds_mode`` without a Unix socket.
    """
    if uds_mode is not None and all(bind.path is None for bind in binds):
        raise ImproperlyConfigured(
            "uds_mode is of the file of a Unix socket, and none is to be made; give its path, or leave the mode out"
        )
    opened: list[Listener] = []
    with contextlib.ExitStack() as unwind:
        for bind in binds:
            for listener in await _open_bind(bind, binds, scheme, uds_mode):
                unwind.callback(listener[0].close)
                opened.append(listener)
        unwind.pop_all()
    return opened


async def _open_bind(bind: Bind, binds: Sequence[Bind], scheme: str, uds_mode: int | None) -> list[Listener]:
    if bind.descriptor is not None:
        sock = adopt(bind.descriptor)
        return [(sock, address_of(sock, scheme))]
    shared = (
        bind.host == "::"
        and bind.port
        and any(each.port == bind.port and each.host is not None and ":" not in each.host for each in binds)
    )
    try:
        return await open_listeners(
            bind.host, bind.port, bind.path, scheme, uds_mode=uds_mode, both=not shared
        )
    except OSError as error:
        raise _cannot_listen(error, bind) from error


def _cannot_listen(error: OSError, bind: Bind) -> CannotListen:
    where, why = str(bind), error.strerror or str(error)
    if bind.path is not None:
        return CannotListen(error.errno, why, where)
    if isinstance(error, socket.gaierror):
        why = f"the name {bind.host!r} does not resolve ({why}); give an address of this machine"
    elif error.errno == errno.EADDRINUSE:
        why = "the port is in use; stop the program that has it, or give another (0 picks one)"
    elif error.errno == errno.EADDRNOTAVAIL:
        why = "this machine has no such address; give one that it has"
    elif error.errno == errno.EACCES:
        why = "permission denied; ports below 1024 are reserved, give another"
    if isinstance(error.filename, str) and error.filename != where:
        where = f"{error.filename} ({where})"
    return CannotListen(error.errno, why, where)


def take_over(sockets: Iterable[socket.socket], scheme: str) -> list[Listener]:
    """Listening sockets that somebody else has made, non-blocking from now on.

    Raises:
        CannotListen: one does not listen, or is none of streams. All of them are closed then.
        ImproperlyConfigured: one is no socket of the standard library's; the others are closed.
    """
    given = list(sockets)
    taken: list[Listener] = []
    with contextlib.ExitStack() as unwind:
        for sock in given:
            if isinstance(sock, socket.socket):
                unwind.callback(sock.close)
        for index, sock in enumerate(given):
            if not isinstance(sock, socket.socket):
                raise ImproperlyConfigured(f"sockets takes socket.socket objects that listen, not {sock!r}")
            check(sock, f"socket {index} of those given")
            sock.setblocking(False)
            taken.append((sock, address_of(sock, scheme)))
        unwind.pop_all()
    return taken


def address_of(sock: socket.socket, scheme: str) -> Address:
    """Where a socket is bound."""
    bound = sock.getsockname()
    if isinstance(bound, tuple):
        return _address_of(bound, scheme)
    return Address(path=os.fsdecode(bound), scheme=scheme)


async def open_listeners(
    host: str | None,
    port: int,
    uds: str | os.PathLike[str] | None,
    scheme: str,
    *,
    uds_mode: int | None = None,
    both: bool = True,
) -> list[Listener]:
    """Non-blocking listening sockets: one for each address that ``host`` has, or the Unix socket ``uds``.

    Args:
        host: an address or a name; ``"::"`` takes IPv4 as well (RFC 3493 section 5.3); None: every interface. Of a
            name, addresses of a family that this machine has not are passed over, unless there are no others.
        port: 0 picks a free one, the same for all addresses.
        uds: a path; a link is followed; a stale socket file is replaced. Closing the listener removes its file, if it
            is that listener's still. One that begins with a zero byte is of Linux's abstract namespace.
        uds_mode: the permissions of its file, such as 0o660; nobody can connect before it has them. None: what the
            process's umask leaves.
        both: False: ``"::"`` is IPv6 alone.

    Raises:
        OSError: an address can't be had; its ``filename`` is that address. Those opened before it are closed.
        ImproperlyConfigured: a host or a port that is none.
    """
    if uds is not None:
        return [(await _open_unix(os.fspath(uds), uds_mode), Address(path=os.fspath(uds), scheme=scheme))]
    found = await _resolve(host, port)
    tries = _SHARED_PORT_TRIES if len(found) > 1 and not port else 1
    while True:
        tries -= 1
        try:
            opened = _open_all(found, both)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not tries:
                raise
        else:
            break
    return [(each, _address_of(each.getsockname(), scheme)) for each in opened]


def _address_of(bound: Any, scheme: str) -> Address:
    host, port, *scope = bound
    # Of a link-local address, RFC 4007.
    zone = f"%{socket.if_indextoname(scope[1])}" if scope and scope[1] else ""
    return Address(host + zone, port, scheme=scheme)


async def _resolve(host: str | None, port: int) -> list[tuple[int, int, int, Any]]:
    """Family, kind, protocol and address of each that ``host`` has, once."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        # The resolver takes larger numbers modulo 65536, and would listen somewhere else.
        raise ImproperlyConfigured(f"a port is a number from 0 to 65535, not {port!r}")
    if host == "":
        raise ImproperlyConfigured(
            "a host is an address or a name, not ''; 0.0.0.0 and :: are every interface"
        )
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # no name, by the rules for those with other letters
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
    return list(
        dict.fromkeys((family, kind, protocol, address) for family, kind, protocol, _, address in found)
    )


def _open_all(found: list[tuple[int, int, int, Any]], both: bool) -> list[socket.socket]:
    opened: list[socket.socket] = []
    missing: OSError | None = None
    picked = 0
    with contextlib.ExitStack() as unwind:
        for family, kind, protocol, (host, port, *scope) in found:
            try:
                # Beside the IPv4 addresses of the same host, IPv6 keeps to itself.
                listener = _open(
                    family,
                    kind,
                    protocol,
                    (host, port or picked, *scope),
                    both and host == "::" and len(found) == 1,
                )
            except OSError as error:
                error = OSError(error.errno, error.strerror, place(host, port or picked))
                if error.errno not in _NO_SUCH_FAMILY:
                    raise error from None
                missing = error
                continue
            opened.append(unwind.enter_context(contextlib.closing(listener)))
            if not port and not picked:
                picked = listener.getsockname()[1]
        if missing is not None and not opened:
            raise missing
        unwind.pop_all()
    return opened


def _open(family: int, kind: int, protocol: int, address: Any, both: bool) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both))
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def twins(listener: socket.socket, count: int) -> list[socket.socket]:
    """More sockets on the address of one that listens, each with a queue of its own, among which the system spreads new
    connections evenly (SO_REUSEPORT).

    Without that option ``listener`` has taken the address, so that nobody else is on it: from now on other programs of
    the same user's could be, with that option.

    Args:
        listener: of TCP.
        count: how many.

    Returns:
        None of them where the system has no such thing.
    """
    made: list[socket.socket] = []
    if sys.platform != "linux":  # elsewhere the last one gets all
        return made
    with contextlib.ExitStack() as unwind:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(count):
            twin = socket.socket(listener.family, listener.type, listener.proto)
            made.append(unwind.enter_context(twin))
            twin.setblocking(False)
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if twin.family == socket.AF_INET6:
                only = listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
                twin.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
            twin.bind(listener.getsockname())
            twin.listen(BACKLOG)
        unwind.pop_all()
    return made


def shares_its_port(sock: socket.socket) -> bool:
    """Another process may listen on the same port (SO_REUSEPORT), as ``ReusePort=yes`` in a unit has it."""
    option: int | None = getattr(socket, "SO_REUSEPORT", None)
    if option is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return bool(sock.getsockopt(socket.SOL_SOCKET, option))


class _UnixListener(socket.socket):
    """A listening Unix socket that takes its file along when it is closed.

    The file goes before the socket does: as long as the socket is open, its inode's number is no other file's.
    """

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._file: tuple[str, int, int] | None = None

    def bind_file(self, path: str) -> None:
        self.bind(path)
        place = os.path.realpath(path)  # for the program may change its folder
        status = os.lstat(place)
        self._file = place, status.st_dev, status.st_ino

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            place, *identity = file
            with contextlib.suppress(OSError):  # it is gone already, or its folder is another one's by now
                status = os.lstat(place)
                if [status.st_dev, status.st_ino] == identity:
                    os.unlink(place)
        super().close()


async def _open_unix(path: str, mode: int | None) -> socket.socket:
    if not path:
        raise OSError(errno.EINVAL, "a path is expected, not ''", path)
    abstract = path.startswith("\0")
    listener = _UnixListener()
    try:
        listener.setblocking(False)
        if abstract:
            listener.bind(path)
            listener.listen(BACKLOG)
        else:
            path = _behind_link(path)
            async with _alone_in(os.path.dirname(path) or "."):
                _remove_stale(path)
                listener.bind_file(path)
                if mode is not None:
                    os.chmod(path, mode)
                listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        # Python says by itself that a path is too long, without a number.
        raise OSError(error.errno or errno.ENAMETOOLONG, error.strerror or str(error), path) from None
    except BaseException:
        listener.close()
        raise
    return listener


def _behind_link(path: str) -> str:
    return os.path.realpath(path) if os.path.islink(path) else path


@contextlib.asynccontextmanager
async def _alone_in(folder: str) -> AsyncIterator[None]:
    """Keep other servers that start out of ``folder`` for the block: between its ``bind`` and its ``listen`` a socket's
    file looks stale, and who removes a stale file might remove the one that has just taken its place."""
    import fcntl  # here, for Windows has none, and no Unix sockets in Python either

    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:  # one may write there and not read; and where there is no folder, bind says so
        yield
        return
    try:
        with trio.move_on_after(_LOCK_SECONDS):
            while True:
                try:
                    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await trio.sleep(_LOCK_PAUSE)
                except OSError:  # a file system without locks
                    break
        yield
    finally:
        os.close(number)


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on any more.

    Raises:
        OSError: what is there is no stale socket; it is left.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a file that is no socket"
        raise OSError(errno.EADDRINUSE, f"{kind} is there; remove it, or choose another path")
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue is full, so somebody listens
    raise OSError(errno.EADDRINUSE, "another program listens on it")


async def says_plain_text(sock: socket.socket) -> bool:
    """Whether a connection begins as HTTP does: with a letter or a line's end.

    No record of TLS does (RFC 8446 section 5.1). Waits for the first byte, and leaves it in the socket; no limit of
    its own.

    Raises:
        OSError: the socket is lost.
    """
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        return first.isalpha() or first in (b"\r", b"\n")


async def start_tls(sock: socket.socket, context: ssl.SSLContext) -> TlsSocket:
    """Shake hands as the server; the non-blocking socket that speaks TLS from now on. No limit of its own.

    Raises:
        OSError: the client does not speak TLS, or went away.
    """
    try:
        secured = TlsSocket(sock, context)
        await secured.handshake()
    except BaseException:
        sock.close()
        raise
    return secured


async def receive_proxy_header(sock: socket.socket) -> ProxyHeader:
    """The header of the PROXY protocol that a connection begins with; what follows is left in the socket.

    Raises:
        ProxyProtocolError: it begins with something else, or ends.
        OSError: the socket is lost.
    """
    data = b""
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            more = sock.recv(_PEEK, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        if not more:
            raise ProxyProtocolError(
                f"the connection ended before a header of the PROXY protocol had come: {data!r:.100}"
            )
        header = parse_proxy_header(data + more)
        if header is not None:
            sock.recv(header.size - len(data))
            return header
        # All that came is of the header; left there, it would be readable again at once.
        data += sock.recv(len(more))

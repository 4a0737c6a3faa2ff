"""Listening sockets: what they are called, what is in their way, and that nothing stays open."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from raw_clients import descriptors
from trio.testing import wait_all_tasks_blocked

from triochan.exceptions import ImproperlyConfigured
from triochan.wire.listeners import Address, open_listeners, shares_its_port, start_tls, twins


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (Address("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        (Address("::1", 8443, scheme="https"), "https://[::1]:8443"),
        (Address("fe80::1%eth0", 8000), "http://[fe80::1%25eth0]:8000"),
        (Address(path="\0chat"), "http+unix:@chat"),
        (Address(path="/run/chat.sock"), "http+unix:/run/chat.sock"),
        (Address(path="/run/chat.sock", scheme="https"), "https+unix:/run/chat.sock"),
    ],
)
def test_an_address_is_a_url(address: Address, url: str) -> None:
    assert address.url == str(address) == url


async def test_a_free_port() -> None:
    [(listener, address)] = await open_listeners("127.0.0.1", 0, None, "https")
    with listener:
        assert address == Address("127.0.0.1", listener.getsockname()[1], scheme="https")
        assert address.port > 0
        assert not listener.getblocking()
        with socket.create_connection((address.host, address.port)):
            listener.accept()[0].close()


class Addresses(trio.abc.HostnameResolver):
    """A host with these addresses."""

    def __init__(self, *found: tuple[Any, ...]) -> None:
        self.found = [
            (
                socket.AF_INET6 if ":" in address[0] else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                address,
            )
            for address in found
        ]

    async def getaddrinfo(self, *arguments: Any, **options: Any) -> Any:
        return self.found * 2  # some resolvers name an address twice

    async def getnameinfo(self, *arguments: Any) -> Any:
        raise AssertionError


async def test_a_busy_port_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        trio.socket.set_custom_hostname_resolver(Addresses(("127.0.0.1", 0), ("127.0.0.1", port)))
        before = descriptors()
        with pytest.raises(OSError) as caught:
            await open_listeners("two.example", 0, None, "http")
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.filename == f"127.0.0.1:{port}"
        assert descriptors() == before


async def test_every_address_of_a_host_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [one.getsockname()[1], other.getsockname()[1]]
    trio.socket.set_custom_hostname_resolver(Addresses(*(("127.0.0.1", port) for port in ports)))
    opened = await open_listeners("two.example", 0, None, "http")
    for listener, _ in opened:
        listener.close()
    assert [address.port for _, address in opened] == ports


def ipv6_here() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not ipv6_here(), reason="this machine has no IPv6")
BOTH = (("127.0.0.1", 0), ("::1", 0, 0, 0))


def reach(host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=5):
        pass


@needs_ipv6
async def test_the_wildcard_of_ipv6_takes_ipv4_too() -> None:
    [(listener, address)] = await open_listeners("::", 0, None, "http")
    with listener:
        assert address.url == f"http://[::]:{address.port}"
        reach("127.0.0.1", address.port)
        reach("::1", address.port)


@needs_ipv6
async def test_the_wildcard_of_ipv4_leaves_ipv6_alone() -> None:
    [(listener, address)] = await open_listeners("0.0.0.0", 0, None, "http")
    with listener:
        reach("127.0.0.1", address.port)
        with pytest.raises(ConnectionRefusedError):
            reach("::1", address.port)
        with pytest.raises(OSError) as caught:  # for it would take IPv4 as well
            await open_listeners("::", address.port, None, "http")
        assert (caught.value.errno, caught.value.filename) == (errno.EADDRINUSE, f"[::]:{address.port}")


@needs_ipv6
@pytest.mark.parametrize("host", ["both.example", None])
async def test_a_free_port_is_one_for_all_families(host: str | None) -> None:
    if host is not None:
        trio.socket.set_custom_hostname_resolver(Addresses(*BOTH))
    opened = await open_listeners(host, 0, None, "http")
    try:
        [port] = {address.port for _, address in opened}
        assert len(opened) == 2
        reach("127.0.0.1", port)
        reach("::1", port)
    finally:
        for listener, _ in opened:
            listener.close()


@needs_ipv6
async def test_a_free_port_that_one_family_lacks_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first three ports that IPv4 picks are taken by others for IPv6."""
    trio.socket.set_custom_hostname_resolver(Addresses(*BOTH))
    before = descriptors()
    bind = socket.socket.bind
    refused: list[int] = []

    def busy(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_INET6 and len(refused) < 3:
            refused.append(address[1])
            raise OSError(errno.EADDRINUSE, "on purpose")
        bind(self, address)

    monkeypatch.setattr(socket.socket, "bind", busy)
    opened = await open_listeners("both.example", 0, None, "http")
    [port] = {address.port for _, address in opened}
    assert port not in refused
    assert 0 not in refused
    assert descriptors() == before + 2
    for listener, _ in opened:
        listener.close()
    refused[:] = []

    def always_busy(self: socket.socket, address: Any) -> None:
        refused.clear()
        busy(self, address)

    monkeypatch.setattr(socket.socket, "bind", always_busy)
    with pytest.raises(OSError, match=r"\[::1\]:"):  # and not for ever
        await open_listeners("both.example", 0, None, "http")
    assert descriptors() == before


@needs_ipv6
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
async def test_a_port_that_is_busy_for_one_family(family: int) -> None:
    trio.socket.set_custom_hostname_resolver(Addresses(*BOTH))
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family) as busy:
        busy.bind((host, 0))
        busy.listen()
        port = busy.getsockname()[1]
        found = (("127.0.0.1", port), ("::1", port, 0, 0))
        trio.socket.set_custom_hostname_resolver(Addresses(*found))
        before = descriptors()
        with pytest.raises(OSError) as caught:
            await open_listeners("both.example", port, None, "http")
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.filename == (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        assert descriptors() == before


@pytest.mark.parametrize("missing", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
async def test_a_family_that_the_machine_lacks(missing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``localhost`` in a container without IPv6: the other address is served; nothing but it, where it is asked for."""
    trio.socket.set_custom_hostname_resolver(Addresses(*BOTH))
    before = descriptors()
    made = socket.socket

    class Lacking(socket.socket):
        def __init__(self, family: int = -1, *arguments: Any, **options: Any) -> None:
            if family == socket.AF_INET6 and missing == errno.EAFNOSUPPORT:
                raise OSError(missing, "on purpose")
            made.__init__(self, family, *arguments, **options)

        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(missing, "on purpose")
            made.bind(self, address)

    monkeypatch.setattr(socket, "socket", Lacking)
    [(listener, address)] = await open_listeners("both.example", 0, None, "http")
    listener.close()
    assert address.host == "127.0.0.1"
    for only in (BOTH[1:], BOTH[1:] * 2 + (("::2", 0, 0, 0),)):
        trio.socket.set_custom_hostname_resolver(Addresses(*only))
        with pytest.raises(OSError) as caught:
            await open_listeners("six.example", 0, None, "http")
        assert caught.value.errno == missing
    assert descriptors() == before


def link_local() -> str | None:
    """A link-local address of this machine with its zone, where it has one."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().split("\n")
    except FileNotFoundError:
        return None
    for words in map(str.split, lines):
        if words and words[0].startswith("fe80"):
            digits = words[0]
            return ":".join(digits[at : at + 4] for at in range(0, 32, 4)) + f"%{words[5]}"
    return None


@pytest.mark.skipif(link_local() is None, reason="this machine has no link-local address")
async def test_a_link_local_address_keeps_its_zone() -> None:
    asked = link_local()
    assert asked is not None
    [(listener, address)] = await open_listeners(asked, 0, None, "http")
    with listener:
        assert address.host.startswith("fe80::")
        assert address.host.endswith(asked.partition("%")[2])
        reach(address.host, address.port)


@pytest.mark.parametrize("port", [-1, 65536, 70000, "8000", True, None, 1.5])
async def test_what_is_no_port(port: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="a port is a number from 0 to 65535, not "):
        await open_listeners("127.0.0.1", port, None, "http")


async def test_what_is_no_host() -> None:
    with pytest.raises(ImproperlyConfigured, match="an address or a name, not ''"):
        await open_listeners("", 0, None, "http")


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "é..x"])
async def test_a_host_that_can_t_be_a_name_does_not_resolve(host: str) -> None:
    with pytest.raises(socket.gaierror):
        await open_listeners(host, 0, None, "http")


async def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    [(listener, address)] = await open_listeners(None, 0, path, "http")
    with listener, socket.socket(socket.AF_UNIX) as client:
        assert address == Address(path=str(path))
        assert not listener.getblocking()
        client.connect(str(path))


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777])
async def test_the_mode_of_a_unix_socket(tmp_path: Path, mode: int) -> None:
    [(listener, _)] = await open_listeners(None, 0, tmp_path / "socket", "http", uds_mode=mode)
    with listener:
        assert (tmp_path / "socket").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("a live socket", "another program listens on it"),
        ("a socket whose queue is full", "another program listens on it"),
        ("a file", "a file that is no socket is there"),
        ("a folder", "a folder is there"),
        ("a link to a file", "a file that is no socket is there"),
        ("a link to a live socket", "another program listens on it"),
    ],
)
async def test_what_is_in_use_is_left(tmp_path: Path, what: str, said: str) -> None:
    path = tmp_path / "socket"
    target = tmp_path / "target" if "link" in what else path
    with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX) as waiting:
        if "socket" in what:
            live.bind(str(target))
            live.listen(0)
            if "full" in what:
                waiting.connect(str(target))
        elif "folder" in what:
            target.mkdir()
        else:
            target.write_text("not yours")
        if target != path:
            path.symlink_to(target)
        before = descriptors()
        with pytest.raises(OSError, match=said) as caught:
            await open_listeners(None, 0, path, "http")
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.filename == str(target)
        assert descriptors() == before
        assert path.exists()
        assert target.exists()


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("", errno.EINVAL),
        ("absent/socket", errno.ENOENT),
        ("x" * 200, errno.ENAMETOOLONG),
        ("x" * 300, errno.ENAMETOOLONG),
        ("file/socket", errno.ENOTDIR),
    ],
)
async def test_a_path_that_can_not_be_had(
    tmp_path: Path, path: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")  # noqa: ASYNC240
    before = descriptors()
    with pytest.raises(OSError) as caught:
        await open_listeners(None, 0, path, "http")
    assert caught.value.errno == number
    assert caught.value.strerror
    assert descriptors() == before


async def test_no_permission_for_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: socket.socket, address: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", denied)
    before = descriptors()
    with pytest.raises(PermissionError):
        await open_listeners(None, 0, tmp_path / "socket", "http")
    assert descriptors() == before


@pytest.mark.parametrize("there", ["nothing", "a stale socket"])
async def test_a_link_is_followed_and_stays(tmp_path: Path, there: str) -> None:
    target, path = tmp_path / "target", tmp_path / "link"
    path.symlink_to(target)
    if there == "a stale socket":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(target))
    [(listener, address)] = await open_listeners(None, 0, path, "http")
    assert address.path == str(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()
    assert not target.exists()
    assert path.is_symlink()


class TestTheFileOfAUnixSocket:
    async def test_goes_with_it_once(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        [(listener, _)] = await open_listeners(None, 0, path, "http")
        listener.close()
        assert not path.exists()
        [(successor, _)] = await open_listeners(None, 0, path, "http")
        with successor:
            listener.close()
            assert path.exists()

    @pytest.mark.parametrize("by", ["a socket", "a file", "a folder", "nothing"])
    async def test_stays_where_it_is_another_one_by_then(self, tmp_path: Path, by: str) -> None:
        path = tmp_path / "socket"
        [(listener, _)] = await open_listeners(None, 0, path, "http")
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            if by == "a socket":
                other.bind(str(path))
            elif by == "a file":
                path.write_text("another one's")
            elif by == "a folder":
                path.mkdir()
            listener.close()
            assert path.exists() == (by != "nothing")

    async def test_goes_where_the_program_has_changed_its_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(tmp_path)
        [(listener, address)] = await open_listeners(None, 0, "socket", "http")
        assert address.path == "socket"
        monkeypatch.chdir(elsewhere)
        Path("socket").write_text("another one's")  # noqa: ASYNC240
        listener.close()
        assert not (tmp_path / "socket").exists()
        assert Path("socket").exists()  # noqa: ASYNC240

    async def test_a_folder_that_is_gone(self, tmp_path: Path) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        [(listener, _)] = await open_listeners(None, 0, folder / "socket", "http")
        (folder / "socket").unlink()
        folder.rmdir()
        before = descriptors()
        listener.close()
        assert descriptors() == before - 1

    @pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has the abstract namespace")
    async def test_there_is_none_in_the_abstract_namespace(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        name = f"\0triochan-test-{os.getpid()}"
        [(listener, address)] = await open_listeners(None, 0, name, "http")
        with listener, socket.socket(socket.AF_UNIX) as client:
            assert address.path == name
            client.connect(name)
            with pytest.raises(OSError) as caught:
                await open_listeners(None, 0, name, "http")
            assert caught.value.errno == errno.EADDRINUSE
        assert not os.listdir(tmp_path)


class TestServersThatStartAtOnce:
    """Between ``bind`` and ``listen`` a socket's file looks stale to another one that starts."""

    async def test_wait_for_each_other(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        folder = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            opened: list[Any] = []

            async def start() -> None:
                opened.extend(await open_listeners(None, 0, path, "http"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(start)
                await trio.sleep(0.05)
                assert not opened
                fcntl.flock(folder, fcntl.LOCK_UN)
            [(listener, _)] = opened
            listener.close()
        finally:
            os.close(folder)

    async def test_not_for_ever(self, tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
        folder = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            [(listener, _)] = await open_listeners(None, 0, tmp_path / "socket", "http")
            listener.close()
            assert trio.current_time() == pytest.approx(1, abs=0.05)
        finally:
            os.close(folder)

    async def test_where_there_are_no_locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*arguments: Any) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
        [(listener, _)] = await open_listeners(None, 0, tmp_path / "socket", "http")
        listener.close()


@pytest.fixture
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, and that of a client that trusts it."""
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(trusting)
    return context, trusting


@pytest.mark.parametrize("client", ["speaks HTTP", "goes", "trusts nobody"])
async def test_tls_that_fails_is_an_oserror(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], client: str
) -> None:
    before = descriptors()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def refuse() -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(
                stream, ssl.create_default_context(), server_hostname="localhost"
            ).do_handshake()
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        if client == "trusts nobody":
            nursery.start_soon(refuse)
        else:
            if client == "speaks HTTP":
                theirs.send(b"GET / HTTP/1.1\r\n\r\n")
            theirs.close()
        with pytest.raises(OSError):
            await start_tls(ours, contexts[0])
    assert descriptors() == before


async def test_tls_that_is_cut_short_closes_the_socket(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    before = descriptors()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start_tls, ours, contexts[0])
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert theirs.recv(100) == b""
    assert descriptors() == before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the last socket gets all")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
async def test_twins_share_a_port_and_nobody_else_has_it(host: str) -> None:
    [(first, address)] = await open_listeners(host, 0, None, "http")
    assert not shares_its_port(first)
    others = twins(first, 3)
    assert all(map(shares_its_port, [first, *others]))
    with pytest.raises(OSError, match="in use"):
        await open_listeners(host, address.port, None, "http")
    clients = [socket.create_connection(("::1" if ":" in host else host, address.port)) for _ in range(60)]
    if host == "::":
        clients.append(socket.create_connection(("127.0.0.1", address.port)))
    accepted = []
    for each in (first, *others):
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted.append((each, each.accept()[0]))
    assert len(accepted) == len(clients)
    assert {each for each, _ in accepted} == {first, *others}
    for sock in [*clients, first, *others, *(client for _, client in accepted)]:
        sock.close()


async def test_where_the_system_has_no_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    [(first, _)] = await open_listeners("127.0.0.1", 0, None, "http")
    with first:
        assert twins(first, 3) == []
        assert not shares_its_port(first)
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    with socket.socket() as sock:
        assert not shares_its_port(sock)

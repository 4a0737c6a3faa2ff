"""A server: listeners, one task per connection, an error barrier around each, and the drain at the end."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeAlias

import trio

from .access import address_of
from .application import Application
from .certificates import CannotUseCertificate
from .exceptions import ImproperlyConfigured
from .handlers import report
from .http1.protocol import FULL, NOT_TLS
from .http1.serving import serve_connection, serve_stream
from .layers import ChannelLayer
from .proxies import Front
from .routing import Routing
from .runtime import Runtime, channels_taken
from .settings import Settings
from .stalls import watched
from .standard_streams import has_terminal, hold_open
from .timers import LATE_SECONDS
from .watchdog import GRACE, Watchdog, busy_threads
from .wire.binds import Bind, parse_binds, place
from .wire.listeners import (
    Address,
    Listener,
    open_binds,
    receive_proxy_header,
    says_plain_text,
    start_tls,
    take_over,
)
from .wire.proxy_protocol import ProxyProtocolError
from .wire.tls import TlsSocket
from .wire.transport import PolledStream, SocketTransport, Transport, has_come
from .workers import Workers

logger = logging.getLogger("triochan.server")

HOST, PORT = "127.0.0.1", 8000
"""Where a server listens that is not told."""
_ACCEPT_BATCH = 64
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_RETRY_ACCEPT = 0.1
_NAMED = 5
"""Clients of connections that were cut off that the log names."""
_SIGHUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""Windows has none."""


class DrainProgress(Protocol):
    """Shows how far a shutdown has come, while it waits for connections."""

    interval: float
    """Seconds between two of :meth:`show`."""

    def show(self, left: int, total: int, seconds: float) -> None:
        """``left`` of the ``total`` connections of the beginning are there; what is left in ``seconds`` is cut off."""

    def end(self) -> None:
        """The shutdown has ended."""


StandIn: TypeAlias = Callable[[Callable[[socket.socket], Awaitable[None]]], Awaitable[None]]
"""Runs until cancelled. It is given what accepts on a listening socket until cancelled, and closes it."""


class _DrainLog:
    """Into the log, where nobody looks on."""

    interval = 5.0

    def show(self, left: int, total: int, seconds: float) -> None:
        logger.info(
            "draining: %d of %d connections left, %.0f s until they are cut off", left, total, seconds
        )

    def end(self) -> None: ...


class Server:
    """Serves one application on its listeners until it is stopped.

    Args:
        runtime: what its connections share.
        listeners: as :func:`triochan.wire.listeners.open_binds` made them; they are closed with the server.
        ssl_context: TLS for every connection, or None.
        renew: makes the context anew, see :meth:`renew_tls`; None: there is nothing to make it of.
        watchdog: ends the process where a shutdown does not; None: the process is somebody else's.
        proxy_protocol: each connection begins with a header of the PROXY protocol.
        progress: shows how far a shutdown has come; None: the log does.
        stand_in: accepts elsewhere, too, for as long as the server accepts.
    """

    def __init__(
        self,
        runtime: Runtime,
        listeners: list[Listener],
        ssl_context: ssl.SSLContext | None = None,
        watchdog: Watchdog | None = None,
        *,
        renew: Callable[[], ssl.SSLContext] | None = None,
        proxy_protocol: bool = False,
        progress: DrainProgress | None = None,
        stand_in: StandIn | None = None,
    ) -> None:
        self.runtime = runtime
        self._stand_in = stand_in
        self._progress: DrainProgress = progress or _DrainLog()
        self._cut: list[str] = []
        """Clients whose connections had not ended when the shutdown was cut short."""
        self._proxy_protocol = proxy_protocol
        self._watchdog = watchdog
        self.addresses = [address for _, address in listeners]
        self._listeners = [listener for listener, _ in listeners]
        self._ssl_context = None if ssl_context is None else _prepared(ssl_context)
        self._renew = renew
        self._handshakes: set[trio.CancelScope] = set()
        self._stop = trio.Event()
        self.finished = trio.Event()
        """Everything has ended, and :meth:`run` returns."""
        self.cut_short = False
        """The shutdown's deadline came, or :meth:`abort`, before all had ended."""
        self._hard = trio.CancelScope(shield=True)
        self._signals = trio.CancelScope(shield=True)

    def stop(self) -> None:
        """Begin the shutdown; again is no error."""
        self._stop.set()

    def abort(self) -> None:
        """Cut the shutdown short: cancel what still runs."""
        self._stop.set()
        self._hard.cancel()
        self._watch(self.runtime.settings.disconnect_timeout)

    @property
    def stopping(self) -> bool:
        """The shutdown has begun."""
        return self._stop.is_set()

    async def run(  # noqa: ASYNC128
        self, task_status: trio.TaskStatus[list[Address]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until :meth:`stop`, then drain. Shielded: a cancellation from outside does not cut sockets off."""
        try:
            await self._run(task_status)
        finally:
            self._signals.cancel()

    async def _run(self, task_status: trio.TaskStatus[list[Address]]) -> None:
        runtime = self.runtime
        workers = Workers(runtime)
        total, began = 0, 0.0
        with self._hard, watched(runtime.settings.block_warning):
            async with runtime.serving() as services:
                services.start_soon(workers.run)
                async with trio.open_nursery() as connections:
                    async with trio.open_nursery() as accepting:
                        for listener in self._listeners:
                            accepting.start_soon(self._accept, listener, connections)
                        if self._stand_in is not None:
                            accepting.start_soon(self._stand_in, partial(self._accept, nursery=connections))
                        task_status.started(self.addresses)
                        await self._stop.wait()
                        accepting.cancel_scope.cancel()
                    for scope in self._handshakes:
                        scope.cancel()
                    self._watch(runtime.settings.shutdown_timeout)
                    total, began = runtime.sockets, trio.current_time()
                    if total:
                        services.start_soon(self._show_progress, total)
                    await runtime.drain(self._hard)
                await runtime.guests_left()
                await workers.drain()
        await workers.tell_left()
        if self._hard.cancelled_caught:
            self.cut_short = True
            logger.error("the shutdown was cut short: what still ran was cancelled%s", self._cut_off(total))
        elif total:
            seconds = trio.current_time() - began
            logger.info("draining: all %d connections have ended, after %.1f s", total, seconds)
        self.cut_short = self.cut_short or runtime.cut_short
        self.finished.set()

    async def _show_progress(self, total: int) -> None:
        runtime, progress = self.runtime, self._progress
        timeout = runtime.settings.shutdown_timeout
        logger.info("draining: %d connections are open; what is left in %g s is cut off", total, timeout)
        try:
            while True:
                await trio.sleep(progress.interval)
                progress.show(runtime.sockets, total, max(0.0, runtime.deadline - trio.current_time()))
        finally:
            progress.end()

    def _cut_off(self, total: int) -> str:
        if not self._cut:
            return ""
        named = sorted({each for each in self._cut if each})[:_NAMED]
        more = len(self._cut) - len(named)
        of = f" (of {', '.join(named)}{f' and {more} more' if more else ''})" if named else ""
        return f", with {len(self._cut)} of {max(total, len(self._cut))} connections{of}"

    def _watch(self, seconds: float) -> None:
        deadline = self.runtime.deadline
        if self._watchdog is not None:
            self._watchdog.start(min(seconds, max(0.0, deadline - trio.current_time())) + GRACE, self._left)

    def _left(self) -> str:
        """What has not ended; called in any thread."""
        runtime = self.runtime
        handlers = sum(connection.handlers for connection in list(runtime.websockets))
        what = f"{runtime.sockets} sockets, {handlers} handlers of WebSockets"
        threads = busy_threads()
        return f"{what}, in threads: {', '.join(threads)}" if threads else what

    async def renew_tls(self) -> bool:
        """Make the TLS context anew: handshakes from now on have it, connections that are open go on. One that can't
        be made is logged, and the old one stays.

        Returns:
            Whether there is a new one.
        """
        if self._renew is None:
            logger.info("there is no certificate to be read anew; SIGTERM shuts the server down")
            return False
        try:
            # In a thread: files may be slow, and so is the decryption of a key.
            made = await trio.to_thread.run_sync(self._renew, abandon_on_cancel=True)
            self._ssl_context = _prepared(made)
        except (CannotUseCertificate, ImproperlyConfigured, OSError) as error:
            logger.error("the certificate was not read anew, the one that is served stays: %s", error)
            return False
        except Exception as error:  # noqa: BLE001 - the program's own function
            report(logger, "the certificate was not read anew, the one that is served stays", error=error)
            return False
        logger.info("the certificate was read anew; new connections have it")
        return True

    async def handle_signals(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Stop at the first SIGINT or SIGTERM, abort at a second one; runs until the server has ended. Shielded: a
        shutdown that a cancellation has begun hears them too.

        A SIGHUP says that the terminal has gone, where the process has been started at one: that stops too, and again
        changes nothing, for several may come. Where it has none, somebody asks for the certificate to be read anew.
        A SIGHUP that is ignored by now stays ignored: ``nohup`` asks for that.
        """
        numbers = [signal.SIGINT, signal.SIGTERM]
        if _SIGHUP is not None and signal.getsignal(_SIGHUP) is not signal.SIG_IGN:
            numbers.append(_SIGHUP)
        at_terminal = has_terminal()
        told = False
        asking, asked = trio.open_memory_channel[None](1)
        with self._signals, trio.open_signal_receiver(*numbers) as received:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._renew_when_asked, asked)
                task_status.started()
                async for number in received:
                    if number == _SIGHUP and not at_terminal:
                        with contextlib.suppress(trio.WouldBlock):  # one more is waiting to be read already
                            asking.send_nowait(None)
                    elif not told:
                        told = True
                        again = "SIGTERM" if number == _SIGHUP else "once more"
                        logger.info(
                            "%s: shutting down; %s to stop at once", signal.Signals(number).name, again
                        )
                        self.stop()
                    elif number != _SIGHUP:
                        self.abort()

    async def _renew_when_asked(self, asked: trio.MemoryReceiveChannel[None]) -> None:
        async for _ in asked:
            await self.renew_tls()

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(listener)
                await self._accept_ready(listener, nursery)
        finally:
            trio.lowlevel.notify_closing(listener)
            listener.close()

    async def _accept_ready(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        for _ in range(_ACCEPT_BATCH):
            try:
                accepted, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # the client gave up while it waited: nothing of ours is wrong
                logger.error("cannot accept: %s. %d sockets are open", error.strerror, self.runtime.sockets)
                await trio.sleep(_RETRY_ACCEPT)
                return
            self.runtime.sockets += 1
            nursery.start_soon(self._serve_socket, accepted, address)

    async def _serve_socket(self, accepted: socket.socket, address: Any) -> None:
        """One connection, and the barrier that keeps whatever happens in it from reaching another."""
        runtime = self.runtime
        sock: socket.socket | TlsSocket = accepted
        try:
            accepted.setblocking(False)
            shakes_hands = self._ssl_context is not None or self._proxy_protocol
            if self.stopping and (shakes_hands or not has_come(accepted)):
                return
            if isinstance(address, tuple):  # not a Unix socket
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client, server = _host_and_port(address), _host_and_port(accepted.getsockname())
            refusal = None
            header_came = not self._proxy_protocol
            if shakes_hands:
                deadline = trio.current_time() + runtime.settings.head_timeout
                with trio.CancelScope() as scope:
                    timer = runtime.timers.at(deadline, partial(self._no_handshake, scope, deadline))
                    self._handshakes.add(scope)
                    try:
                        if self._proxy_protocol:
                            header = await receive_proxy_header(accepted)
                            client, server = header.client or client, header.server or server
                            header_came = True
                        if self._ssl_context is not None:
                            if await says_plain_text(accepted):
                                refusal = NOT_TLS
                            else:
                                sock = await start_tls(accepted, self._ssl_context)
                    finally:
                        timer.cancel()
                        self._handshakes.discard(scope)
                if scope.cancelled_caught and not self.stopping:
                    what = "TLS handshake" if header_came else "header of the PROXY protocol"
                    logger.debug("connection from %s: no %s in time; it is closed", _name(address), what)
                if scope.cancelled_caught or self.stopping:
                    return
            limit = runtime.settings.max_connections
            if refusal is None and limit is not None and runtime.sockets > limit:
                refusal = FULL
            await self._serve(
                sock,
                scheme="http" if self._ssl_context is None or refusal is NOT_TLS else "https",
                client=client,
                server=server,
                refusal=refusal,
            )
        except ProxyProtocolError as error:
            logger.warning("connection from %s: %s; it is closed", _name(address), error)
        except OSError as error:
            logger.debug("connection from %s: %s", _name(address), error)
        except Exception as error:  # noqa: BLE001 - the barrier around a connection
            report(logger, "internal error on the connection from %s", _name(address), error=error)
        finally:
            if self.stopping and self._hard.cancel_called:
                self._cut.append(place(*address[:2]) if isinstance(address, tuple) else "")
            runtime.sockets -= 1
            sock.close()

    def _no_handshake(self, scope: trio.CancelScope, deadline: float) -> None:
        """A client has not said in time what comes before its first request. Where something has kept the loop, it gets
        that time once more."""
        now = trio.current_time()
        late = now - deadline
        scope.deadline = now + min(late, self.runtime.settings.head_timeout) if late > LATE_SECONDS else now

    def _serve(self, sock: socket.socket | TlsSocket, **about: Any) -> Awaitable[None]:
        runtime = self.runtime
        poller = runtime.readers.poller
        if poller is None:
            # Without epoll, Trio's own streams serve. TLS is spoken by the socket already.
            return serve_stream(PolledStream(sock), runtime, **about)

        def connect(source: Any) -> Transport:
            return SocketTransport(sock, poller, source)

        return serve_connection(connect, runtime, **about)


def _host_and_port(address: Any) -> list[Any] | None:
    if not isinstance(address, tuple):
        return None
    host: str = address[0]
    # An IPv4 address as a socket for both families has it (RFC 4291 section 2.5.5.2).
    return [host[7:] if host.startswith("::ffff:") and "." in host else host, address[1]]


def _prepared(context: ssl.SSLContext) -> ssl.SSLContext:
    if not isinstance(context, ssl.SSLContext):
        raise ImproperlyConfigured(
            f"ssl_context is an ssl.SSLContext, or a function that returns one, not {context!r}"
        )
    # A renegotiation would make a write wait for a read; TLS 1.3 has none.
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _name(address: Any) -> str:
    """An accepted socket's address for a line of the log."""
    client = _host_and_port(address)
    return "a Unix socket" if client is None else address_of(client)


async def serve(
    routing: Routing | Application,
    *,
    host: str | None = HOST,
    port: int = PORT,
    uds: str | os.PathLike[str] | None = None,
    uds_mode: int | None = None,
    bind: str | Iterable[str] = (),
    sockets: Iterable[socket.socket] = (),
    listen: bool = True,
    ssl_context: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
    settings: Settings | None = None,
    layer: ChannelLayer | None = None,
    only_channels: Iterable[str] = (),
    exclude_channels: Iterable[str] = (),
    signals: bool = False,
    shutdown_trigger: Callable[[], Awaitable[object]] | None = None,
    watchdog: Watchdog | None = None,
    progress: DrainProgress | None = None,
    trusted_proxies: Iterable[str] = (),
    proxy_protocol: bool = False,
    root_path: str = "",
    health_path: str | None = None,
    access_log: bool | None = None,
    stand_in: StandIn | None = None,
    task_status: trio.TaskStatus[list[Address]] = trio.TASK_STATUS_IGNORED,
) -> bool:
    """Serve a routing until cancelled, then shut down in order: ``addresses = await nursery.start(serve, routing)``.

    A cancellation stops accepting, closes the sockets with 1001, lets handlers finish, and comes out when all is
    done, at the latest after ``settings.shutdown_timeout``.

    Args:
        routing: a list of routes, the dotted name of one, or an :class:`Application`.
        host, port: where to listen; host None or ``"::"``: on all interfaces, by IPv4 and IPv6; port 0: a free one.
        uds: listen on this Unix socket instead. Its file is removed when the shutdown begins, so that a successor can
            take its place at once; a file that is another server's by then is left.
        uds_mode: the permissions of that file, such as ``0o660``; None: what the process's umask leaves.
        bind: listen on all of these instead of ``host``, ``port`` and ``uds``: ``"127.0.0.1:8000"``, ``"[::1]:8000"``,
            ``"unix:/run/app.sock"``, ``"fd://3"``, a listening socket that the process inherited; as gunicorn's and
            Hypercorn's ``bind``.
        sockets: listen on these listening sockets, too, or alone; :func:`triochan.systemd_sockets` has those of
            systemd. They are the server's, which closes them; a socket's file is left.
        listen: False: nowhere. The consumers of named channels run, and the lifespan, until the shutdown: a background
            worker, for a layer that other processes send through.
        ssl_context: serve TLS with it, on Unix sockets too. A function makes it, at the start and, with ``signals``,
            again at each SIGHUP, in a thread then: for a certificate that is renewed while the server runs, such as
            ``partial(triochan.certificates.make_context, "cert.pem", "key.pem")``. What is raised at a SIGHUP is
            logged, and the old context stays.
        settings: limits and time-outs.
        layer: the channel layer; None: the one that serves this Trio run already, or a new one in memory.
        only_channels: globs of named channels (``"thumbnails"``, ``"mail.*"``): the consumers of those that one
            matches run here, and no others; none: all do.
        exclude_channels: and of none that one of these matches.
        signals: stop at SIGINT and SIGTERM too, and return then; a second one cuts the shutdown short. SIGHUP stops as
            well where the process has a terminal, and has ``ssl_context`` made anew where it has none. A SIGHUP that is
            ignored when the server starts stays ignored.
        shutdown_trigger: when what it gives has been awaited, the shutdown begins, as in Hypercorn: for programs that
            want to know how it ends, which a cancellation does not tell.
        watchdog: ends the process a moment after the deadline, where a handler in a thread does not; for programs
            that are nothing but this server, as :func:`run` is. None: a thread is waited for.
        progress: shows how many connections a shutdown still waits for; None: the log does, every 5 s.
        trusted_proxies: addresses (``"10.0.0.1"``, ``"10.0.0.0/8"``, ``"unix"``, ``"*"``) of proxies whose
            ``Forwarded`` or ``X-Forwarded-For``, ``-Proto`` and ``-Host`` are believed: messages have their client,
            scheme and host then.
        proxy_protocol: each connection begins with a header of the PROXY protocol, version 1 or 2; one without is
            closed.
        root_path: the path below which a proxy serves the application, such as ``"/chat"``: consumers see paths
            without it, and have it at ``message["root_path"]``.
        health_path: where the server itself says whether it takes requests, such as ``"/healthz"``: 200, or 503 during
            a shutdown; under any host's name.
        access_log: log a line for each request, and two for each WebSocket, to ``triochan.access`` at ``info``, as
            ``uvicorn --access-log`` does; None: where standard error is a terminal. Looked at here, once, as is whether
            that logger is enabled for it.
        stand_in: is given a function that accepts on a listening socket until cancelled, and runs for as long as the
            server accepts: for workers of several, who accept for one that is away.
        task_status: gets the list of :class:`triochan.Address` that are listened on.

    Returns:
        Whether all had ended of itself; False: the shutdown cut something off.

    Raises:
        ImproperlyConfigured: the routing is wrong, the host or port is none, a glob matches no named channel, or there
            is neither a place to listen nor a channel to take from.
        triochan.exceptions.CannotListen: an address can't be had (an OSError). Of several, none is listened on then.
    """
    application = Application.of(routing)
    renew = ssl_context if callable(ssl_context) else None
    context = ssl_context() if callable(ssl_context) else ssl_context
    scheme = "http" if ssl_context is None else "https"
    channels = channels_taken(application.router, only_channels, exclude_channels)
    if not listen and not channels:
        raise ImproperlyConfigured(
            "nothing is listened on, and there is no named channel to take from: nothing would ever run"
        )
    front = Front(trusted=trusted_proxies, root_path=root_path, health_path=health_path)
    with contextlib.ExitStack() as held:
        listeners = take_over(sockets, scheme)
        for listener, _ in listeners:  # once the server accepts on them, it closes them when it stops
            held.callback(listener.close)
        binds = _binds(bind, host, port, uds, listen=listen, alone=not listeners)
        async with Runtime.open(
            application,
            settings or Settings(),
            layer,
            front,
            access_log=access_log,
            channels=channels,
        ) as runtime:
            for opened in await open_binds(binds, scheme, uds_mode=uds_mode):
                held.callback(opened[0].close)
                listeners.append(opened)
            server = Server(
                runtime,
                listeners,
                context,
                watchdog,
                renew=renew,
                proxy_protocol=proxy_protocol,
                progress=progress,
                stand_in=stand_in,
            )
            async with trio.open_nursery() as nursery:
                addresses = await nursery.start(server.run)
                if signals:
                    await nursery.start(server.handle_signals)
                if shutdown_trigger is not None:
                    nursery.start_soon(_stop_after, server, shutdown_trigger)
                task_status.started(addresses)
                try:
                    await server.finished.wait()
                finally:
                    server.stop()
                nursery.cancel_scope.cancel()
    return not server.cut_short


async def _stop_after(server: Server, trigger: Callable[[], Awaitable[object]]) -> None:
    await trigger()
    server.stop()


def _binds(
    bind: str | Iterable[str],
    host: str | None,
    port: int,
    uds: str | os.PathLike[str] | None,
    *,
    listen: bool,
    alone: bool,
) -> list[Bind]:
    """Where to listen, beside sockets that exist already unless ``alone``."""
    binds = parse_binds(bind)
    short = uds is not None or (host, port) != (HOST, PORT)
    if not listen:
        if binds or short or not alone:
            raise ImproperlyConfigured("listen=False goes with no bind=, sockets=, host=, port= and uds=")
        return []
    if short and (binds or not alone):
        raise ImproperlyConfigured(
            "bind= and sockets= take the place of host=, port= and uds=; give those as one of bind="
        )
    if binds or not alone:
        return binds
    return [Bind(host, port) if uds is None else Bind(path=os.fspath(uds))]


def run_process(routing: Routing | Application, **options: Any) -> int:
    """Serve until SIGINT or SIGTERM, in a Trio run of its own and a process that is nothing else.

    Args:
        options: as :func:`serve` takes them.

    Returns:
        The exit status: 0, or 1 where the shutdown cut something off. Where even that does not end it, because a
        handler sits in a thread, the process ends a second after the shutdown's deadline.
    """
    hold_open()
    watchdog = Watchdog()
    try:
        ended = trio.run(partial(serve, routing, signals=True, watchdog=watchdog, **options))
    finally:
        watchdog.cancel()
    return 0 if ended else 1


class _Announcement:
    """Stands in for Trio's task status: logs where the server listens."""

    def started(self, addresses: list[Address], /) -> None:
        logger.info("serving on %s", ", ".join(map(str, addresses)))


def run(routing: Routing | Application, **options: Any) -> None:
    """Serve until SIGINT or SIGTERM, in a Trio run of its own; ``options`` as :func:`serve` takes them.

    It returns when everything has ended. The process is taken to be the server's: where a handler sits in a thread
    for longer than ``settings.shutdown_timeout``, the process ends a second later, with exit status 1.

    Raises:
        SystemExit: with 1, where the shutdown cut something off.
    """
    status = run_process(routing, task_status=_Announcement(), **options)
    if status:
        raise SystemExit(status)

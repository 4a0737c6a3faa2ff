"""SIGHUP: it reads the certificate anew, or says that the terminal has gone."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trustme
from command_line import SECONDS, Served, Terminal, folder, get, served, terminal
from raw_clients import until
from socket_client import make_contexts
from websockets.sync.client import connect

from triochan import route, server
from triochan.exceptions import ImproperlyConfigured
from triochan.http import text
from triochan.server import serve

__all__ = ["folder", "served", "terminal"]
"""Fixtures."""


def certificate(folder: Path) -> bytes:
    """A new one for localhost, in ``both.pem``; as the other side sees it."""
    issued = trustme.CA().issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


def secured(port: int) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=SECONDS))


def presented(port: int) -> bytes | None:
    with secured(port) as client:
        return client.getpeercert(binary_form=True)


def said(server: Served) -> str:
    """The next line of its log."""
    assert server.process.stderr is not None
    return server.process.stderr.readline()


def test_the_certificate_is_read_anew_and_nobody_is_cut_off(
    served: Callable[..., Served], folder: Path
) -> None:
    first = certificate(folder)
    server = served(
        "hello:routing", "--port", "0", "--ssl-certfile", "both.pem", "--log-level", "info",
        start_new_session=True,
    )  # fmt: skip
    assert presented(server.port) == first
    with secured(server.port) as old:
        old.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert old.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert "greeting" in said(server)

        second = certificate(folder)
        server.process.send_signal(signal.SIGHUP)
        assert said(server).endswith(": the certificate was read anew; new connections have it\n")
        assert presented(server.port) == second != first

        (folder / "both.pem").write_text("nothing of that kind")
        server.process.send_signal(signal.SIGHUP)
        assert said(server).endswith(
            "ERROR    triochan.server: the certificate was not read anew, the one that is served stays: both.pem holds "
            "no certificate: 'BEGIN CERTIFICATE' is expected (PEM)\n"
        )
        assert presented(server.port) == second

        (folder / "both.pem").unlink()
        server.process.send_signal(signal.SIGHUP)
        assert said(server).endswith("stays: --ssl-certfile both.pem: No such file or directory\n")

        old.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert old.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert server.end(signal.SIGTERM)[0] == 0


def test_without_a_certificate_it_changes_nothing(served: Callable[..., Served]) -> None:
    server = served("hello:routing", "--port", "0", start_new_session=True)
    server.process.send_signal(signal.SIGHUP)
    assert said(server).endswith("there is no certificate to be read anew; SIGTERM shuts the server down\n")
    assert get(http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)) == b"hello"
    assert server.end(signal.SIGTERM)[0] == 0


def test_a_terminal_that_goes_ends_the_server(served: Callable[..., Served], terminal: Terminal) -> None:
    """Although none of the standard streams is that terminal."""
    server = served("hello:routing", "--port", "0", **terminal.options)
    with connect(f"ws://127.0.0.1:{server.port}/echo/") as client:
        client.send("there")
        assert client.recv() == "there"
        terminal.hang_up()
        with pytest.raises(Exception, match="1001"):
            client.recv(timeout=SECONDS)
    _, err = server.process.communicate(timeout=SECONDS)
    assert server.process.returncode == 0, err
    assert "SIGHUP: shutting down; SIGTERM to stop at once" in err


def test_sighup_that_is_ignored_stays_ignored(served: Callable[..., Served]) -> None:
    """As ``nohup`` starts it."""
    server = served(
        "hello:routing",
        "--port",
        "0",
        command=("sh", "-c", "trap '' HUP; exec \"$@\"", "sh", sys.executable, "-m", "triochan"),
    )
    server.process.send_signal(signal.SIGHUP)
    with connect(f"ws://127.0.0.1:{server.port}/echo/") as client:
        client.send("there")
        assert client.recv() == "there"
        server.process.send_signal(signal.SIGHUP)
        client.send("still there")
        assert client.recv() == "still there"
    status, _, err = server.end(signal.SIGTERM)
    assert status == 0
    assert "SIGHUP" not in err


# -- as a library


async def hello(message: object) -> object:
    return text("hello")


ROUTING = [route("http.request", hello)]


async def test_a_function_makes_the_context_at_the_start_and_at_each_sighup(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(server, "has_terminal", lambda: False)
    caplog.set_level("INFO", "triochan.server")
    made: list[ssl.SSLContext] = []
    does: list[object] = [None, None, ValueError("on purpose"), "no context", None]

    def make() -> ssl.SSLContext:
        what = does.pop(0)
        if isinstance(what, Exception):
            raise what
        if what is not None:
            return what  # type: ignore[return-value]
        made.append(make_contexts()[0])
        return made[-1]

    async def lines(count: int) -> list[str]:
        await until(lambda: len(caplog.records) >= count)
        return [record.getMessage() for record in caplog.records]

    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await serve(ROUTING, uds=tmp_path / "socket", ssl_context=make, signals=True)

        nursery.start_soon(run)
        await until((tmp_path / "socket").exists)
        await trio.testing.wait_all_tasks_blocked()
        for count in range(1, 5):
            os.kill(os.getpid(), signal.SIGHUP)
            told = await lines(count)
        nursery.cancel_scope.cancel()
    stays = "the certificate was not read anew, the one that is served stays"
    assert told == [
        "the certificate was read anew; new connections have it",
        stays,
        f"{stays}: ssl_context is an ssl.SSLContext, or a function that returns one, not 'no context'",
        "the certificate was read anew; new connections have it",
    ]
    assert "ValueError: on purpose" in caplog.text
    assert len(made) == 3
    assert all(context.options & ssl.OP_NO_RENEGOTIATION for context in made)


async def test_what_a_function_raises_at_the_start_comes_out() -> None:
    def fail() -> ssl.SSLContext:
        raise LookupError("on purpose")

    with pytest.raises(LookupError):
        await serve(ROUTING, port=0, ssl_context=fail)
    with pytest.raises(ImproperlyConfigured, match=r"ssl_context is an ssl.SSLContext, or a function that"):
        await serve(ROUTING, port=0, ssl_context="cert.pem")  # type: ignore[arg-type]

"""The command line: what it serves, what it says where it can't, and how it ends."""

from __future__ import annotations

import errno
import fcntl
import http.client
import json
import logging
import os
import pty
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import termios
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import trustme
from command_line import SECONDS, Served, Terminal, environment, folder, get, served, terminal
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

import triochan
from triochan import cli, options
from triochan.configuration import configure
from triochan.settings import Settings
from triochan.wire import listeners

__all__ = ["folder", "served", "terminal"]
"""Fixtures."""

# -- errors, in this process


@pytest.fixture
def fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Runs a command line that can't be served; gives what it said on stderr."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(folder)
    known = set(sys.modules)
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(*arguments: str) -> str:
        try:
            status = cli.main(arguments)
        except SystemExit as error:
            status = error.code  # type: ignore[assignment]
        out, err = capsys.readouterr()
        assert status == 2
        assert out == ""
        return err

    yield run
    root.handlers[:], root.level = before
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) and str(folder) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hello"], "'hello' is not of the form module:name, such as 'chat:routing'"),
        (["hello:"], "is not of the form module:name"),
        ([":routing"], "is not of the form module:name"),
        (["hello:rou ting"], "is not of the form module:name"),
        (["hello.py:routing"], "'--app-dir . hello:routing'"),
        (["sub/hello.py"], "'--app-dir sub hello:routing'"),
        (["absent:routing"], "there is no module 'absent' in "),
        (["hello.absent:routing"], "there is no module 'hello.absent' in "),
        (["hello:ruoting"], "has no 'ruoting'; did you mean 'routing'?"),
        (["hello:x"], "has no 'x'; did you mean 'routing'?"),
        (["hello:holder.x"], "hello.holder in module 'hello'"),
        (["hello:number"], "a routing is a list of route(), route_class() and include(), not int 7"),
        (["hello:Echo"], "a routing is a list of route(), route_class() and include(), not hello.Echo"),
        (["hello:blocking"], "entry 0 of the routing is "),
        (["hello:make"], "'hello:make' is a function; where it makes what to serve, add --factory"),
        (["hello:routing", "--factory"], "'hello:routing' is no function, but list; drop --factory"),
        (["hello:later", "--factory"], "the factory 'hello:later' is async"),
        (["hello:holder", "--factory"], "a routing is a list of route(), route_class() and include(), not "),
        (["hello:make", "--factory", "--session-file", "x"], "is an Application, which says session_store=…"),
        (["hello:routing", "--app-dir", "absent"], "--app-dir absent: there is no such folder"),
        (
            ["hello:routing", "--ssl-certfile", "absent.pem"],
            "--ssl-certfile absent.pem: No such file or directory",
        ),
        (["hello:routing", "--ssl-certfile", "hello.py"], "hello.py holds no certificate"),
        (["hello:routing", "--ssl-certfile", "."], "--ssl-certfile .: Is a directory"),
        (
            ["hello:routing", "--ssl-certfile", "hello.py", "--ssl-keyfile", "absent.pem"],
            "--ssl-keyfile absent.pem: No such file or directory",
        ),
        (["hello:routing", "--host", "no.such.name.invalid"], "'no.such.name.invalid' does not resolve"),
        (
            ["hello:routing", "--host", "192.0.2.1"],
            "can't listen on 192.0.2.1:8000: this machine has no such address",
        ),
        (
            ["hello:routing", "--uds", "absent/socket"],
            "can't listen on the Unix socket absent/socket: No such file",
        ),
        (["hello:routing", "--uds", "x" * 200], "AF_UNIX path too long"),
        (["hello:routing", "--uds", "x" * 300], "File name too long"),
        (["hello:routing", "--uds", "hello.py"], "hello.py: a file that is no socket is there; remove it"),
        (
            ["hello:routing", "--bind", "127.0.0.1:0", "--uds-mode", "660"],
            "uds_mode is of the file of a Unix socket, and none is to be made",
        ),
        (["hello:routing", "--uds", "."], "the Unix socket .: a folder is there"),
        (["hello:routing", "--host", "a..b"], "the name 'a..b' does not resolve"),
        (["hello:routing", "--host", "x" * 70], "does not resolve"),
        (["hello:routing", "--host", "127.0.0.1:80"], "the name '127.0.0.1:80' does not resolve"),
        (["hello:routing", "--host", "2001:db8::1"], "can't listen on [2001:db8::1]:8000: "),
    ],
)
def test_one_line_says_what_cannot_be_served(
    fails: Callable[..., str], arguments: list[str], said: str
) -> None:
    text = fails(*arguments)
    assert said in text
    assert text.startswith("triochan: error: ")
    assert len(text.splitlines()) == 1


def test_what_a_factory_raises_is_shown_from_there_on(fails: Callable[..., str]) -> None:
    text = fails("hello:broken", "--factory")
    assert text.endswith("triochan: error: the factory 'hello:broken' raised LookupError, see above\n")
    assert [line for line in text.splitlines() if line.startswith("  File ")] == [
        line for line in text.splitlines() if "hello.py" in line
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: module:name"),
        (["a:b", "c:d"], "unrecognized arguments: c:d"),
        (["a:b", "--prot", "1"], "unrecognized arguments: --prot 1"),
        (["a:b", "--port", "65536"], "argument --port: takes a number from 0 to 65535, not '65536'"),
        (["a:b", "--port", "-1"], "argument --port: takes a number from 0 to 65535, not '-1'"),
        (["a:b", "--port", "http"], "argument --port: takes a number from 0 to 65535, not 'http'"),
        (["a:b", "--port", ""], "argument --port: takes a number from 0 to 65535, not ''"),
        (["a:b", "--port", "٣"], "argument --port: takes a number from 0 to 65535, not '٣'"),
        (
            ["a:b", "--host", ""],
            "argument --host: takes an address or a name; 0.0.0.0 and :: are every interface",
        ),
        (["a:b", "--uds", ""], "argument --uds: takes a path, not an empty one"),
        (["a:b", "--uds-mode", "660"], "--uds-mode goes with --uds"),
        (["a:b", "--uds", "s", "--uds-mode", "rw"], "takes three octal digits, such as 660, not 'rw'"),
        (["a:b", "--uds", "s", "--uds-mode", "999"], "takes three octal digits, such as 660, not '999'"),
        (["a:b", "--uds", "s", "--port", "1"], "--uds takes the place of --host and --port"),
        (
            ["a:b", "--bind", "localhost"],
            "argument --bind: 'localhost' is not where one can listen; HOST:PORT",
        ),
        (["a:b", "--fd", "three"], "argument --fd: takes the number of a descriptor, such as 3, not 'three'"),
        (["a:b", "--bind", "unix:s", "--port", "1"], "--bind takes the place of --host and --port and --uds"),
        (["a:b", "--fd", "3", "--uds", "s"], "--fd takes the place of --host and --port and --uds"),
        (["a:b", "--ssl-keyfile", "k"], "--ssl-keyfile goes with --ssl-certfile"),
        (["a:b", "--reload-dir", "x"], "--reload-dir goes with --reload; give it too"),
        (["a:b", "--reload-exclude", "x"], "--reload-exclude goes with --reload; give it too"),
        (["a:b", "--ssl-keyfile-password", "x"], "--ssl-keyfile-password goes with --ssl-certfile"),
        (["a:b", "--ssl-keyfile-password-file", "x"], "--ssl-keyfile-password-file goes with --ssl-certfile"),
        (
            ["a:b", "--ssl-certfile=c", "--ssl-keyfile-password=x", "--ssl-keyfile-password-file=x"],
            "--ssl-keyfile-password-file takes the place of --ssl-keyfile-password; give one or the other",
        ),
        (["a:b", "--log-level", "loud"], "takes one of debug, info, warning, error, critical, not 'loud'"),
        (["a:b", "--max-message-size", "many"], "takes a size such as 65536, 64KiB or 1.5MiB, not 'many'"),
        (["a:b", "--max-message-size", "1.5"], "takes a whole number of bytes, not '1.5'"),
        (["a:b", "--max-message-size", "0"], "argument --max-message-size: must be at least 1 bytes, not 0"),
        (["a:b", "--max-message-size", "none"], "takes a size"),
        (["a:b", "--inbox-limit", "1.5"], "argument --inbox-limit: takes a whole number, not '1.5'"),
        (["a:b", "--head-timeout", "soon"], "argument --head-timeout: takes a number of seconds, not 'soon'"),
        (["a:b", "--head-timeout", "nan"], "argument --head-timeout: must be at least 0 s, not nan"),
        (["a:b", "--handler-timeout", "no"], "takes a number of seconds, not 'no'; or none"),
        (["a:b", "--overflow", "wait"], "takes one of close, drop_newest, drop_oldest, not 'wait'"),
        (["a:b", "--channel-capacity", "a=1,b"], "takes a number, or glob=number,..., not 'a=1,b'"),
        (["a:b", "--channel-capacity", "a=b"], "takes a whole number, not 'b'"),
        (
            ["a:b", "--channel-capacity", "a=0"],
            "argument --channel-capacity: takes numbers of at least 1, not 0",
        ),
    ],
)
def test_a_wrong_option_is_two_lines(fails: Callable[..., str], arguments: list[str], said: str) -> None:
    text = fails(*arguments)
    assert said in text
    assert text.startswith("triochan: error: ")
    assert text.endswith("\nTry 'triochan --help'.\n")
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit('no')", "SystemExit: no"),
        ("from triochan import route\nroute('http.request', print)", "ImproperlyConfigured"),
    ],
)
def test_a_module_that_raises_shows_its_traceback(
    fails: Callable[..., str], folder: Path, source: str, said: str
) -> None:
    (folder / "broken.py").write_text(source)
    text = fails("broken:routing")
    assert said in text
    assert "broken.py" in text
    assert "importlib" not in text
    assert "cli.py" not in text
    assert text.splitlines()[-1] == "triochan: error: the module 'broken' could not be imported, see above"


def test_what_can_be_served_is_suggested_before_what_is_merely_spelled_alike(
    fails: Callable[..., str], folder: Path
) -> None:
    (folder / "quizzes.py").write_text(
        "from triochan import Application\nMapped = 1\napplication = Application([])\n"
        "def make_application(): return application\n"
    )
    assert "has no 'app'; did you mean 'application'?" in fails("quizzes:app")
    assert "did you mean 'make_application'?" in fails("quizzes:make_aplication", "--factory")


def test_a_module_that_a_routing_names_raises(fails: Callable[..., str], folder: Path) -> None:
    (folder / "named.py").write_text("routing = 'broken.routing'")
    (folder / "broken.py").write_text("1 / 0")
    text = fails("named:routing")
    assert "broken.py" in text
    assert (
        text.splitlines()[-1]
        == "triochan: error: 'named:routing' can't be served: it raised ZeroDivisionError, see above"
    )


def test_a_busy_port(fails: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        text = fails("hello:routing", "--port", port)
    assert text == (
        f"triochan: error: can't listen on 127.0.0.1:{port}: the port is in use; "
        "stop the program that has it, or give another (0 picks one)\n"
    )


def test_a_busy_unix_socket(fails: Callable[..., str]) -> None:
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind("taken")
        taken.listen()
        assert "the Unix socket taken: another program listens on it" in fails(
            "hello:routing", "--uds", "taken"
        )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "127.0.0.1:80"),
            "can't listen on 127.0.0.1:80: permission denied; ports below 1024 are reserved, give another",
        ),
        (
            OSError(errno.EADDRINUSE, "Address already in use", "[::1]:80"),
            "can't listen on [::1]:80 (127.0.0.1:80): the port is in use; ",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "can't listen on 127.0.0.1:80: Too many open files"),
    ],
)
def test_an_address_that_can_not_be_had(
    fails: Callable[..., str], error: OSError, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> list[socket.socket]:
        raise error

    monkeypatch.setattr(listeners, "_open_all", fail)
    assert said in fails("hello:routing", "--port", "80")


def test_reloading_needs_an_extra_and_a_folder(
    fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert fails("hello:routing", "--reload") == (
        "triochan: error: --reload needs the package watchfiles, which is not installed; install 'triochan[reload]'\n"
    )
    monkeypatch.setitem(sys.modules, "watchfiles", type(sys)("watchfiles"))
    monkeypatch.setattr("watchfiles.awatch", None, raising=False)
    said = fails("hello:routing", "--reload", "--reload-dir", "absent")
    assert said == "triochan: error: --reload-dir absent: there is no such folder\n"


def test_a_key_of_another_certificate(fails: Callable[..., str], folder: Path) -> None:
    authority = trustme.CA()
    for name in ("one", "other"):
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    text = fails("hello:routing", "--ssl-certfile", "one.pem", "--ssl-keyfile", "other.key")
    assert "the key in other.key does not belong to the certificate in one.pem" in text


# -- options, in this process


def parsed(*arguments: str) -> dict[str, object]:
    return vars(configure(options.make_parser().parse_args(["a:b", *arguments]), {}).options)


def test_every_setting_is_an_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    defaults = parsed()
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for field in attrs.fields(Settings):
        assert defaults[field.name] == field.default
        option = "--" + field.name.replace("_", "-")
        found = re.search(rf" {option}(?=[ ,])", help_text)
        assert found is not None, option
        after = help_text[found.start() :]
        assert after.index(field.metadata["help"]) < after.index("(default: ")
    assert options.SECTIONS.keys() <= {field.name for field in attrs.fields(Settings)}
    assert "(default: 16KiB)" in help_text
    assert "(default: none)" in help_text


def test_the_example_of_the_help_is_served(folder: Path, served: Callable[..., Served]) -> None:
    example = re.search(r"\n\n( {6}from .*?)\n\n  and serve", options.EPILOG, re.DOTALL)
    assert example is not None
    (folder / "example.py").write_text(textwrap.dedent(example[1]))
    server = served("example:routing", "--port", "0")
    with connect(f"{server.url.replace('http', 'ws')}/echo/") as client:
        client.send("there")
        assert client.recv() == "there"


def test_values_of_every_kind() -> None:
    assert parsed("--max-message-size", "64KiB")["max_message_size"] == 65536
    assert parsed("--max-message-size", "1.5 mib")["max_message_size"] == 3 * 2**19
    assert parsed("--max-message-size", "1000")["max_message_size"] == 1000
    assert parsed("--ping-interval", "0.5")["ping_interval"] == 0.5
    assert parsed("--max-connections", "100")["max_connections"] == 100
    assert parsed("--max-connections", "none")["max_connections"] is None
    assert parsed("--handler-timeout", "2")["handler_timeout"] == 2
    assert parsed("--overflow", "drop_oldest")["overflow"] == "drop_oldest"
    assert parsed("--channel-capacity", "7")["channel_capacity"] == 7
    assert parsed("--channel-capacity", "chat.*=7,*=9")["channel_capacity"] == {"chat.*": 7, "*": 9}
    assert parsed("--channel-bytes", "chat.*=64KiB,*=1MiB")["channel_bytes"] == {"chat.*": 65536, "*": 2**20}
    assert parsed("--channel-expiry", "chat.*=0.5")["channel_expiry"] == {"chat.*": 0.5}
    assert parsed("--log-level", "WARNING")["log_level"] == "warning"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"triochan {triochan.__version__} (Python ")


# -- a server, in a process of its own


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serves_until_a_signal(served: Callable[..., Served], number: int, terminal: Terminal) -> None:
    server = served("hello:routing", "--port", "0", **terminal.options)
    assert server.line == (
        f"triochan {triochan.__version__} on http://127.0.0.1:{server.port} serving "
        "websocket.* path=^/echo/$ → hello.Echo; http.request path=^/$ → hello.hello\n"
    )
    assert get(http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)) == b"hello"
    with connect(f"ws://127.0.0.1:{server.port}/echo/") as client:
        client.send("there")
        assert client.recv() == "there"
        server.process.send_signal(number)
        with pytest.raises(Exception, match="1001"):
            client.recv(timeout=SECONDS)
    out, err = server.process.communicate(timeout=SECONDS)
    assert server.process.returncode == 0, err
    assert out == ""
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO     hello: greeting$", err, re.MULTILINE)
    assert "Traceback" not in err


def test_an_application_a_mapping_and_a_name_within_a_name(served: Callable[..., Served]) -> None:
    for name in ("hello:application", "hello:mapping", "hello:holder.routing"):
        server = served(name, "--port", "0", "--log-level", "warning")
        assert get(http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)) == b"hello"
        assert server.end() == (0, "", "")


def test_the_script_and_app_dir(served: Callable[..., Served], folder: Path) -> None:
    (folder / "apps").mkdir()
    (folder / "apps" / "inner.py").write_text("from hello import routing")
    script = Path(sys.executable).with_name("triochan")
    server = served("hello:routing", "--port", "0", command=(str(script),))
    assert server.end()[0] == 0
    # The folder of --app-dir comes first; the current one is still looked at by `python -m`.
    server = served("inner:routing", "--port", "0", "--app-dir", "apps")
    assert server.end()[0] == 0


def test_unix_socket(served: Callable[..., Served], folder: Path) -> None:
    server = served("hello:make", "--factory", "--uds", "socket", "--uds-mode", "620")
    assert server.url == "http+unix:socket"
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(SECONDS)
    connection.sock.connect(str(folder / "socket"))
    assert get(connection) == b"hello"
    assert (folder / "socket").stat().st_mode == stat.S_IFSOCK | 0o620
    assert server.end(signal.SIGTERM)[0] == 0
    assert not (folder / "socket").exists()


def test_tls(served: Callable[..., Served], folder: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    # This client reads in one thread and writes in another; with TLS 1.3's tickets Python 3.11 may lose a write.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = served("hello:routing", "--host", "localhost", "--port", "0", "--ssl-certfile", "both.pem")
    assert server.urls[0].startswith("https://")
    port = int(re.findall(r":(\d+)", server.line)[0])
    assert get(http.client.HTTPSConnection("localhost", port, timeout=SECONDS, context=context)) == b"hello"
    with connect(f"wss://localhost:{port}/echo/", ssl=context) as client:
        client.send("there")
        assert client.recv() == "there"
    assert server.end()[0] == 0


def test_a_signal_ends_every_state_of_tls(served: Callable[..., Served], folder: Path) -> None:
    """Within --close-timeout, and with a close_notify (RFC 8446 section 6.1) wherever TLS has been begun."""
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    server = served("hello:routing", "--port", "0", "--ssl-certfile", "both.pem", "--close-timeout", "0.3")

    def connected() -> socket.socket:
        return socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)

    def secured(*pieces: bytes) -> ssl.SSLSocket:
        # Without suppress_ragged_eofs, an end without close_notify is an SSLEOFError.
        client = context.wrap_socket(connected(), server_hostname="localhost", suppress_ragged_eofs=False)
        for piece in pieces:
            client.sendall(piece)
        return client

    whole = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    silent, begun = connected(), connected()
    begun.sendall(b"\x16\x03\x01\x02\x00\x01")
    fresh, idle, half = secured(), secured(whole), secured(whole, b"GET / HTTP")
    for client in (idle, half):
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.read() == b"hello"
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert fresh.recv(100) == b""
    assert idle.recv(100) == b""
    rest = b"".join(iter(lambda: half.recv(1000), b""))
    assert rest == b"" or rest.startswith(b"HTTP/1.1 4")
    for raw in (silent, begun):
        try:
            assert raw.recv(100) == b""
        except ConnectionResetError:
            pass
    for each in (silent, begun, fresh, idle, half):
        each.close()
    _, err = server.process.communicate(timeout=SECONDS)
    assert server.process.returncode == 0, err
    assert time.monotonic() - began < 4
    assert "Traceback" not in err
    assert "cut short" not in err


def test_the_settings_reach_the_server(served: Callable[..., Served]) -> None:
    server = served("hello:routing", "--port", "0", "--max-message-size", "1KiB")
    with connect(f"ws://127.0.0.1:{server.port}/echo/") as client:
        client.send("a" * 1025)
        with pytest.raises(Exception, match="1009"):
            client.recv(timeout=SECONDS)


def test_logging_of_the_users_own_stays(served: Callable[..., Served], folder: Path) -> None:
    (folder / "own.py").write_text(
        "import logging\nlogging.basicConfig(format='own %(message)s', level='INFO')\nfrom hello import routing"
    )
    server = served("own:routing", "--port", "0")
    get(http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS))
    assert server.end()[2].startswith("own greeting\n")


def test_serves_where_the_terminal_knows_no_arrows(
    served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    server = served("hello:routing", "--port", "0")
    assert server.line.endswith("path=^/$ ? hello.hello\n")
    assert server.end()[0] == 0


def test_interrupted_before_it_serves(served: Callable[..., Served], folder: Path) -> None:
    (folder / "slow.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)")
    server = served("slow:routing")
    assert server.line == "importing\n"
    assert server.end() == (130, "", "")


# -- signals


SLOW = """
    import trio
    from triochan import route
    from triochan.http import text

    async def slow(message):
        print("begun", flush=True)
        await trio.sleep(0.7)
        await message.reply_channel.send(text("late"))

    routing = [route("http.request", slow)]
"""


@pytest.mark.parametrize(
    ("first", "then", "status"),
    [
        (signal.SIGHUP, signal.SIGHUP, 0),
        (signal.SIGTERM, signal.SIGHUP, 0),  # as some supervisors send them
        (signal.SIGHUP, signal.SIGTERM, 1),
        (signal.SIGINT, signal.SIGINT, 1),
        (signal.SIGTERM, signal.SIGINT, 1),
    ],
)
def test_a_second_signal(
    served: Callable[..., Served],
    folder: Path,
    first: signal.Signals,
    then: signal.Signals,
    status: int,
    terminal: Terminal,
) -> None:
    """A terminal that goes may send several SIGHUPs: what is under way is answered all the same."""
    (folder / "slow.py").write_text(textwrap.dedent(SLOW))
    server = served("slow:routing", "--port", "0", **terminal.options)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    connection.request("GET", "/")
    assert server.process.stdout is not None
    assert server.process.stdout.readline() == "begun\n"
    server.process.send_signal(first)
    time.sleep(0.2)
    server.process.send_signal(then)
    try:
        answer = connection.getresponse().read()
    except (http.client.RemoteDisconnected, ConnectionError):
        answer = b"none"
    assert (answer == b"late") == (not status)
    connection.close()
    _, err = server.process.communicate(timeout=SECONDS)
    assert server.process.returncode == status, err
    assert err.count("shutting down") == 1
    assert ("cut short" in err) == bool(status)
    assert "Traceback" not in err


def test_a_terminal_shows_how_far_a_shutdown_is(
    folder: Path, terminal: Terminal, served: Callable[..., Served]
) -> None:
    (folder / "slow.py").write_text(textwrap.dedent(SLOW))
    server = served("slow:routing", "--port", "0", **{**terminal.options, "stderr": terminal.slave})
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == "begun\n"
        server.process.send_signal(signal.SIGTERM)
        assert b"late" in client.recv(1000)
    seen = ""
    while "have ended" not in seen:
        seen += os.read(terminal.master, 1000).decode()
    assert server.process.wait(SECONDS) == 0
    assert "SIGTERM: shutting down; once more to stop at once\r\n" in seen
    assert "\r\x1b[Kdraining: 1 of 1 connections left, 30 s until they are cut off\r\x1b[K" in seen
    assert re.search(r"\n[-\d:, ]+INFO.*draining: all 1 connections have ended, after \d\.\d s\r\n$", seen)


# -- standard streams


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as picked:
        return int(picked.getsockname()[1])


def wait_for(port: int) -> http.client.HTTPConnection:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=SECONDS).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)


@pytest.mark.parametrize(
    "redirections",
    [
        ">&-",
        "2>&-",
        "<&-",
        "<&- >&- 2>&-",
        ">/dev/full",
        "2>/dev/full",
        ">/dev/full 2>/dev/full",
        pytest.param(">&3", id="a pipe that nobody reads"),
        pytest.param("2>&3", id="a pipe for errors that nobody reads"),
    ],
)
def test_standard_streams_that_nobody_reads(folder: Path, redirections: str) -> None:
    """The server serves, its consumers may print, and no socket of its own stands where a stream has stood."""
    (folder / "printing.py").write_text(
        textwrap.dedent("""
            import os, sys
            from triochan import route
            from triochan.http import json

            async def tell(message):
                for stream in (sys.stdout, sys.stderr):
                    try:
                        stream.write("some words")
                        stream.flush()
                    except OSError:
                        pass
                links = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
                await message.reply_channel.send(json(links))

            routing = [route("http.request", tell)]
        """)
    )
    port = free_port()
    reading, nobody = os.pipe()
    os.close(reading)
    try:
        process = subprocess.Popen(
            ["bash", "-c", f"exec 3>&{nobody}; exec \"$@\" {redirections} 3>&- {nobody}>&-", "bash",
             sys.executable, "-m", "triochan", "printing:routing", "--port", str(port)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[nobody],
            env=environment(),
        )  # fmt: skip
    finally:
        os.close(nobody)
    try:
        assert b"socket" not in get(wait_for(port))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in out + err
    assert "Exception ignored" not in out + err


@pytest.mark.parametrize("redirections", [">&-", "2>&-", ">&- 2>&-", ">/dev/full", ">&- 2>/dev/full"])
@pytest.mark.parametrize(
    ("arguments", "status"), [("--help", 0), ("--version", 0), ("hello:nothing", 2), ("--nothing", 2)]
)
def test_what_is_said_and_nobody_reads_is_no_traceback(
    folder: Path, arguments: str, status: int, redirections: str
) -> None:
    ended = subprocess.run(
        ["sh", "-c", f'exec "$0" -m triochan {arguments} {redirections}', sys.executable],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=environment(),
    )
    assert ended.returncode == status
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert not (status == 2 and ended.stdout)  # an error never takes the place of what is read by a program


# -- an encrypted key


@pytest.fixture
def encrypted(folder: Path) -> list[str]:
    """The options that serve with an encrypted key; its password is "open sesame"."""
    issued = trustme.CA().issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    key = load_pem_private_key(issued.private_key_pem.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame")
    )
    (folder / "key.pem").write_bytes(key)
    return ["--port", "0", "--ssl-certfile", "cert.pem", "--ssl-keyfile", "key.pem"]


def test_an_encrypted_key_without_a_terminal(folder: Path, encrypted: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "triochan", "hello:routing", *encrypted],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=environment(),
        start_new_session=True,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "triochan: error: the private key in key.pem is encrypted, and there is no terminal to ask for its password; "
        "give the password in the environment variable TRIOCHAN_SSL_KEYFILE_PASSWORD or in a file, by "
        "--ssl-keyfile-password-file\n"
    )


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        ([], {"TRIOCHAN_SSL_KEYFILE_PASSWORD": "open sesame"}),
        (["--ssl-keyfile-password-file", "password"], {}),
        # what is said on the command line goes before the environment
        (["--ssl-keyfile-password", "open sesame"], {"TRIOCHAN_SSL_KEYFILE_PASSWORD": "open barley"}),
    ],
)
def test_an_encrypted_key_whose_password_is_said(
    served: Callable[..., Served],
    folder: Path,
    encrypted: list[str],
    arguments: list[str],
    environ: dict[str, str],
) -> None:
    (folder / "password").write_text("open sesame\n")
    server = served("hello:routing", *encrypted, *arguments, env=environ, start_new_session=True)
    assert server.url.startswith("https://")
    assert server.end()[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ssl-keyfile-password", "open barley"], "can't be decrypted: is the password right?"),
        (["--ssl-keyfile-password", ""], "is one of 1 to 1024 bytes; what was given has 0"),
        (["--ssl-keyfile-password-file", "hello.py"], "is one of 1 to 1024 bytes; what was given has 0"),
        (
            ["--ssl-keyfile-password-file", "absent"],
            "--ssl-keyfile-password-file absent: No such file or directory",
        ),
    ],
)
def test_a_wrong_password_is_one_line(
    fails: Callable[..., str], encrypted: list[str], arguments: list[str], said: str
) -> None:
    text = fails("hello:routing", *encrypted, *arguments)
    assert said in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("answer", "status"), [("open sesame\n", 0), ("open barley\n", 2), ("\x04", 2), ("\x03", 130)]
)
def test_an_encrypted_key_is_asked_for_at_the_terminal(
    folder: Path, encrypted: list[str], answer: str, status: int
) -> None:
    terminal, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "triochan", "hello:routing", *encrypted],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
    )
    try:
        asked = b""
        while not asked.endswith(b"key.pem: "):
            asked += os.read(terminal, 100)
        os.write(terminal, answer.encode())
        if not status:
            assert process.stdout is not None
            assert "https://127.0.0.1:" in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.communicate()
        os.close(slave)
        os.close(terminal)
    assert process.returncode == status, err
    assert "Traceback" not in err
    if status == 2:
        assert "the private key in key.pem" in err


# -- addresses


def test_one_port_for_both_families(served: Callable[..., Served]) -> None:
    server = served("hello:routing", "--host", "::", "--port", "0")
    assert server.url == f"http://[::]:{server.port}"
    for host in ("127.0.0.1", "::1"):
        assert get(http.client.HTTPConnection(host, server.port, timeout=SECONDS)) == b"hello"
    assert server.end()[0] == 0


def test_brackets_around_a_host(served: Callable[..., Served]) -> None:
    server = served("hello:routing", "--host", "[::1]", "--port", "0")
    assert server.url == f"http://[::1]:{server.port}"
    with urllib.request.urlopen(server.url, timeout=SECONDS) as answer:
        assert answer.read() == b"hello"
    assert server.end()[0] == 0


# -- Unix sockets


def ask(path: Path) -> bytes:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(SECONDS)
    connection.sock.connect(str(path))
    return get(connection)


def test_a_successor_takes_a_unix_socket_while_the_first_drains(
    served: Callable[..., Served], folder: Path
) -> None:
    (folder / "slow.py").write_text(textwrap.dedent(SLOW))
    first = served("slow:routing", "--uds", "socket")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "socket"))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first.process.stdout is not None
        assert first.process.stdout.readline() == "begun\n"
        first.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + SECONDS
        while (folder / "socket").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        second = served("hello:routing", "--uds", "socket")
        assert b"late" in client.recv(1000)
    _, err = first.process.communicate(timeout=SECONDS)
    assert first.process.returncode == 0, err
    assert ask(folder / "socket") == b"hello"
    assert second.end()[0] == 0
    assert not (folder / "socket").exists()


def test_a_unix_socket_of_a_killed_server_is_taken(served: Callable[..., Served], folder: Path) -> None:
    first = served("hello:routing", "--uds", "socket")
    first.process.kill()
    first.process.wait(SECONDS)
    assert (folder / "socket").exists()
    second = served("hello:routing", "--uds", "socket")
    assert ask(folder / "socket") == b"hello"
    assert second.end()[0] == 0


# -- behind a proxy, the lifespan, the log

FRONT = """
    from triochan import route
    from triochan.http import json

    async def tell(message):
        return json({key: message.get(key) for key in ("client", "scheme", "path", "root_path")})

    routing = [route("http.request", tell)]
"""


def test_behind_a_proxy(served: Callable[..., Served], folder: Path) -> None:
    (folder / "front.py").write_text(textwrap.dedent(FRONT))
    server = served(
        "front:routing", "--port", "0", "--forwarded-allow-ips", "127.0.0.1, 10.0.0.0/8", "--root-path", "/chat",
        "--health-path", "/healthz", "--allowed-host", "chat.example.com", "--log-format", "json",
    )  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    said = {
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "chat.example.com",
    }
    connection.request("GET", "/chat/room", headers=said)
    assert json.loads(connection.getresponse().read()) == {
        "client": ["203.0.113.7", 0], "scheme": "https", "path": "/room", "root_path": "/chat",
    }  # fmt: skip
    connection.request("GET", "/healthz")
    assert connection.getresponse().read() == b"ok\n"
    connection.request("GET", "/chat/room")
    assert connection.getresponse().status == 400  # another host's name
    connection.close()
    server.process.send_signal(signal.SIGTERM)
    _, err = server.process.communicate(timeout=SECONDS)
    assert server.process.returncode == 0
    assert [json.loads(line)["level"] for line in err.splitlines()] == ["info"]


GUARDED = """
    import time
    from triochan import route, route_class
    from triochan.generic.websockets import WebsocketConsumer
    from triochan.http import text

    class Guarded(WebsocketConsumer):
        http_user = True

    async def slow(message):
        time.sleep(0.4)
        return text("slow")

    routing = [route_class(Guarded, path="^/ws$"), route("http.request", slow)]
"""


def test_an_origin_is_allowed_and_what_blocks_is_named(served: Callable[..., Served], folder: Path) -> None:
    (folder / "guarded.py").write_text(textwrap.dedent(GUARDED))
    server = served("guarded:routing", "--port", "0", "--allowed-origin", "null", "--block-warning", "0.1")
    place = f"ws://127.0.0.1:{server.port}/ws"
    with connect(place, origin=Origin("null"), open_timeout=SECONDS):
        pass
    with pytest.raises(InvalidStatus, match="403"):
        connect(place, origin=Origin("https://evil.example"), open_timeout=SECONDS)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"slow"
    connection.close()
    server.process.send_signal(signal.SIGTERM)
    _, err = server.process.communicate(timeout=SECONDS)
    assert server.process.returncode == 0
    assert 'guarded.py", line 11, in slow' in err
    assert "time.sleep(0.4)" in err


def test_the_proxy_protocol(served: Callable[..., Served], folder: Path) -> None:
    (folder / "front.py").write_text(textwrap.dedent(FRONT))
    server = served("front:routing", "--port", "0", "--proxy-protocol")
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as client:
        client.sendall(b"PROXY TCP4 203.0.113.7 198.51.100.1 50000 443\r\nGET / HTTP/1.0\r\nHost: x\r\n\r\n")
        answer = b""
        while more := client.recv(4096):
            answer += more
    assert b'"client":["203.0.113.7",50000]' in answer


def test_the_access_log(served: Callable[..., Served], folder: Path) -> None:
    """Off where stderr is no terminal; on where it is asked for, or is one; by its name in a file."""
    (folder / "log.toml").write_text('[loggers."triochan.access"]\nlevel = "WARNING"\n')
    for arguments, expected in (
        ((), False),
        (("--access-log",), True),
        (("--access-log", "--log-format", "json"), True),
        (("--access-log", "--log-config", "log.toml"), False),
    ):
        server = served("hello:routing", "--port", "0", *arguments)
        get(http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS))
        _, _, err = server.end()
        assert bool(re.search(r"127\.0\.0\.1:\d+ - .+GET / HTTP/1\.1.+ 200 \d+ bytes \d", err)) is expected, (
            err
        )


@pytest.mark.parametrize(("arguments", "expected"), [((), True), (("--no-access-log",), False)])
def test_the_access_log_on_a_terminal(
    served: Callable[..., Served], arguments: tuple[str, ...], expected: bool
) -> None:
    ours, theirs = pty.openpty()
    try:
        command = ("sh", "-c", f'exec "$@" 2>{os.ttyname(theirs)}', "sh", sys.executable, "-m", "triochan")
        server = served("hello:routing", "--port", "0", *arguments, command=command)
        get(http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS))
        server.end()
        said = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "shutting down" in said
    assert ('"GET / HTTP/1.1" 200' in said) is expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--forwarded-allow-ips", "proxy.example"], "a trusted proxy is an address such as 10.0.0.1"),
        (["--root-path", "chat/"], "root_path is a path such as '/chat'"),
        (["--health-path", "healthz"], "health_path is a path such as '/healthz'"),
        (["--allowed-origin", "example.com"], "allowed_origins takes origins such as"),
        (["--allowed-host", "https://example.com"], "allowed_hosts takes names such as"),
        (["--log-config", "none.toml"], "--log-config none.toml: No such file"),
        (["--log-format", "xml"], "takes one of text, json, not 'xml'"),
        (["--prot", "80"], "unrecognized arguments: --prot 80; did you mean --port?"),
        (["--max-mesage-size=3"], "did you mean --max-message-size?"),
        (["--xyzzy"], "unrecognized arguments: --xyzzy\n"),
    ],
)
def test_options_that_are_wrong(fails: Callable[..., str], arguments: list[str], says: str) -> None:
    assert says in fails("hello:routing", *arguments)


def test_an_application_says_itself_which_hosts_and_origins(fails: Callable[..., str], folder: Path) -> None:
    (folder / "an_application.py").write_text("from triochan import Application\napp = Application([])\n")
    for option, value in (("--allowed-host", "example.com"), ("--allowed-origin", "null")):
        assert f"itself; drop {option}" in fails("an_application:app", option, value)


LIFESPAN = """
    from contextlib import asynccontextmanager
    from triochan import Application

    @asynccontextmanager
    async def lifespan(application):
        raise {error}
        yield

    app = Application([], lifespan=lifespan)
"""


@pytest.mark.parametrize("error", ["OSError(98, 'the database is busy')", "ValueError('no database')"])
def test_a_lifespan_that_raises_at_the_start_is_status_3(folder: Path, error: str) -> None:
    (folder / "living.py").write_text(textwrap.dedent(LIFESPAN.format(error=error)))
    ended = subprocess.run(
        [sys.executable, "-m", "triochan", "living:app", "--port", "0"],
        cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment(),
    )  # fmt: skip
    assert ended.returncode == 3
    assert "in lifespan" in ended.stderr
    assert ended.stderr.rstrip().endswith("triochan: error: the application did not start, see above")
    assert "can't listen" not in ended.stderr

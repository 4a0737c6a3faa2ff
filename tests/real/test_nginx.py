"""Behind Debian's nginx, which is configured as docs/nginx.md says: the login example, over TCP and Unix sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
import trustme
from browsers import EXAMPLES, PATIENCE
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs" / "nginx.md"
CLIENT = "127.0.0.2"
"""Where the tests' clients connect from; nginx connects to the server from 127.0.0.1."""
APPLICATION = """
import login
from triochan import Application, route
from triochan.http import json
from triochan.sessions import MemorySessionStore

async def seen(message):
    host = dict(message["headers"])[b"host"].decode()
    return json({"client": message["client"], "scheme": message["scheme"], "host": host, "size": len(message["body"])})

application = Application(
    [route("http.request", seen, path="^/seen$"), *login.routing],
    session_store=MemorySessionStore(),
    secrets=["a secret that is long enough"],
    user_loader=login.consumers.load_user,
)
"""


def missing(what: str, package: str) -> None:
    say = pytest.fail if os.environ.get("CI") else pytest.skip
    say(f"this test needs {what}: apt-get install {package}")


def find_nginx() -> str:
    # A user's PATH may lack it, and the program runs all the same.
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if found is None:
        missing("nginx", "nginx")
    assert found is not None
    return found


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def changed(text: str, changes: dict[str, str]) -> str:
    """The page's text for this machine; each change has to find its place."""
    for old, new in changes.items():
        assert text.count(old) == 1, f"docs/nginx.md says {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return text


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def running(command: list[str], log: Path, address: Any, environment: dict[str, str]) -> Iterator[None]:
    """A process, from when something accepts at ``address``, a port of 127.0.0.1 or a path, until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
            with socket.socket(family) as probe:
                if probe.connect_ex(address if isinstance(address, str) else ("127.0.0.1", address)) == 0:
                    break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            print(log.read_text())


class Site(NamedTuple):
    """What nginx serves, by the ports where it does."""

    plain: int
    tls: int
    context: ssl.SSLContext
    log: Path

    @property
    def host(self) -> str:
        return f"example.com:{self.tls}"

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.tls, timeout=PATIENCE, context=self.context, source_address=(CLIENT, 0)
        )
        with closing(connection):
            connection.request(method, path, body, {"Host": self.host, **(headers or {})})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()

    def seen(self, **headers: str) -> Any:
        status, _, answer = self.request("GET", "/seen", None, headers)
        assert status == 200, answer
        return json.loads(answer)

    def accessed(self, what: str) -> list[str]:
        """The access log's lines that say ``what``; waits for the first."""
        deadline = time.monotonic() + PATIENCE
        line = re.compile(rf"^.* triochan\.access: .*{re.escape(what)}.*$", re.MULTILINE)
        while not (found := line.findall(self.log.read_text())):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return found

    def log_in(self) -> dict[str, str]:
        """A new account's cookie, as a header."""
        name = f"Ada {time.monotonic_ns() % 10**9}"
        body = urlencode({"name": name, "password": "correct horse battery staple"}).encode()
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"https://{self.host}"}
        status, headers, answer = self.request("POST", "/register", body, kind)
        assert (status, headers.get("Location")) == (303, "/"), answer
        cookie, *attributes = headers["Set-Cookie"].split("; ")
        assert {"Secure", "HttpOnly", "SameSite=Lax"} <= set(attributes)
        return {"Cookie": cookie}

    def connect(self, cookie: dict[str, str], origin: str | None = None) -> ClientConnection:
        sock = socket.create_connection(("127.0.0.1", self.tls), PATIENCE, source_address=(CLIENT, 0))
        return connect(
            f"wss://{self.host}/live/",
            sock=sock,
            ssl=self.context,
            server_hostname="example.com",
            origin=Origin(origin or f"https://{self.host}"),
            additional_headers=cookie,
            max_size=None,
            ping_interval=None,  # it is the server that keeps the socket alive
        )


@contextmanager
def site(folder: Path, block: int, command: int, changes: dict[str, str], *more: str) -> Iterator[Site]:
    """The login example behind nginx, as the page has both.

    Args:
        block, command: which of the page's.
        changes: in the block, beside ports and paths.
        more: options of the command line.
    """
    if not os.environ.get("CI"):
        pytest.importorskip(
            "argon2", reason="the login example needs argon2-cffi: pip install -e '.[examples]'"
        )
    nginx = find_nginx()
    stream_module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    if block == 1 and not stream_module.exists():
        missing("nginx's stream module", "libnginx-mod-stream")
    authority = trustme.CA()
    certificate = authority.issue_cert("example.com", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / "example.com.pem")
    certificate.private_key_pem.write_to_path(folder / "example.com.key")
    context = ssl.create_default_context()
    authority.configure_trust(context)

    plain, tls, behind = free_ports(3)
    (folder / "behind.py").write_text(APPLICATION)
    text = changed(blocks("nginx")[block], changes)
    text = re.sub(
        r"(listen )(80|443)\b",
        lambda found: f"{found[1]}127.0.0.1:{plain if found[2] == '80' else tls}",
        text,
    )
    text = re.sub(r"127\.0\.0\.1:8(000|443)\b", f"127.0.0.1:{behind}", text)
    text = text.replace("/etc/ssl/", f"{folder}/").replace("/run/triochan/", f"{folder}/")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    top = f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\n"
    if block == 1:
        config = f"load_module {stream_module};\n{top}{text}"
    else:
        config = f"{top}http {{\naccess_log off;\n{temporary}{text}}}\n"
    (folder / "nginx.conf").write_text(config)

    options = shlex.split(blocks("sh")[command])[2:]
    assert options[:2] == ["triochan", "login:application"]
    options = [each.replace("/run/triochan", str(folder)) for each in options[2:]]
    options = [str(folder / each) if each.startswith("example.com.") else each for each in options]
    options = [str(behind) if each in ("8000", "8443") else each for each in options]
    server = [
        sys.executable,
        "-m",
        "triochan",
        "behind:application",
        "--app-dir",
        str(folder),
        "--access-log",
        *options,
        *more,
    ]
    environment = {
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), *sys.path]),
        "LOGIN_DATABASE": str(folder / "login.sqlite3"),
    }
    address = str(folder / "server.sock") if "--uds" in options else behind
    with (
        running(server, folder / "server.log", address, environment),
        running([nginx, "-c", str(folder / "nginx.conf"), "-p", str(folder)], folder / "nginx.log", tls, {}),
    ):
        yield Site(plain, tls, context, folder / "server.log")


@pytest.fixture(scope="module", params=["tcp", "unix"])
def behind_nginx(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("nginx")  # short: the path of a Unix socket has 107 bytes at most
    changes = {"proxy_read_timeout 60s;": "proxy_read_timeout 1s;"}
    if request.param == "unix":
        changes["server 127.0.0.1:8000;"] = "server unix:/run/triochan/server.sock;"
    with site(folder, 0, int(request.param == "unix"), changes, "--ping-interval", "0.3") as behind:
        yield behind


def test_what_comes_without_tls_is_sent_to_https(behind_nginx: Site) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", behind_nginx.plain, timeout=PATIENCE)) as connection:
        connection.request("GET", "/login?next=1", headers={"Host": "example.com"})
        response = connection.getresponse()
        assert (response.status, response.getheader("Location")) == (301, "https://example.com/login?next=1")


def test_the_server_sees_the_client_and_how_it_asked(behind_nginx: Site) -> None:
    expected = {"client": [CLIENT, 0], "scheme": "https", "host": behind_nginx.host, "size": 0}
    assert behind_nginx.seen() == expected
    # What a client says of itself is believed by nobody.
    spoofed = {"Forwarded": "for=192.0.2.1;host=evil.example;proto=http", "X-Forwarded-For": "192.0.2.1"}
    spoofed |= {"X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil.example"}
    assert behind_nginx.seen(**spoofed) == expected
    for line in behind_nginx.accessed("/seen"):
        assert CLIENT in line
        assert "192.0.2.1" not in line


def test_log_in_and_a_socket_that_stays_open(behind_nginx: Site) -> None:
    status, headers, _ = behind_nginx.request("GET", "/")
    assert (status, headers["Location"]) == (303, "/login")
    cookie = behind_nginx.log_in()
    status, headers, _ = behind_nginx.request("GET", "/", headers=cookie)
    assert status == 200
    with behind_nginx.connect(cookie) as socket:
        assert json.loads(socket.recv(PATIENCE)) == {"type": "note", "note": ""}
        note = "Is it me? " * 100
        time.sleep(1.6)  # longer than nginx waits for a word of the server's: its pings are such
        socket.send(json.dumps({"note": note}))
        while (message := json.loads(socket.recv(PATIENCE)))["type"] != "note":
            pass
        assert message["note"] == note
        assert all(CLIENT in line for line in behind_nginx.accessed("/live/"))
        # Logging out closes it, through nginx, with the server's code.
        own = {"Origin": f"https://{behind_nginx.host}", **cookie}
        assert behind_nginx.request("POST", "/logout", b"", own)[0] == 303
        with contextlib.suppress(ConnectionClosed):
            while True:
                socket.recv(PATIENCE)
        assert socket.close_code == 3000


def test_pages_from_elsewhere_are_refused(behind_nginx: Site) -> None:
    cookie = behind_nginx.log_in()
    for origin in ("https://evil.example", "https://example.com", f"http://{behind_nginx.host}"):
        with pytest.raises(InvalidStatus, match="403"):
            behind_nginx.connect(cookie, origin)
        headers = {"Origin": origin, "Content-Type": "application/x-www-form-urlencoded", **cookie}
        assert behind_nginx.request("POST", "/login", b"name=Ada&password=x", headers)[0] == 403


def test_uploads_up_to_the_limit(behind_nginx: Site) -> None:
    status, _, answer = behind_nginx.request("POST", "/seen", bytes(10 * 2**20))
    assert (status, json.loads(answer)["size"]) == (200, 10 * 2**20)
    # nginx's own word; it may have closed its end before all was sent
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        assert behind_nginx.request("POST", "/seen", bytes(10 * 2**20 + 1))[0] == 413
    assert behind_nginx.seen()["size"] == 0


def test_tls_by_the_server_itself(tmp_path: Path) -> None:
    with site(tmp_path, 1, 2, {}) as behind:
        seen = behind.seen()
        assert (seen["client"][0], seen["scheme"], seen["host"]) == (CLIENT, "https", behind.host)
        assert seen["client"][1] > 0  # the PROXY protocol has the port too
        assert all(CLIENT in line for line in behind.accessed("/seen"))
        with behind.connect(behind.log_in()) as socket:
            assert json.loads(socket.recv(PATIENCE))["type"] == "note"
        assert all(CLIENT in line for line in behind.accessed("/live/"))

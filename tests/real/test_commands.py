"""``triochan routes`` and ``triochan check``, and where options come from, by the command line."""

from __future__ import annotations

import datetime
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

import triochan
from triochan import cli

APP = """
    from triochan import Application, route, route_class
    from triochan.generic.websockets import WebsocketConsumer, WebsocketDemultiplexer
    from triochan.http import text

    class Echo(WebsocketConsumer):
        strict_ordering = True

    class Mine(WebsocketConsumer):
        http_user = True

    class Streams(WebsocketDemultiplexer):
        mapping = {"stats": "internal.stats"}

    async def hello(message):
        return text("hello")

    routing = [route_class(Echo, path=r"^/echo/$"), route("http.request", hello, path="^/$")]
    application = Application(routing)
    empty = []
    unheard = [route_class(Streams)]
    users = [route_class(Mine)]

    def shadowed():
        return [route("http.request", hello), route("http.request", hello, path="^/$"), *routing]

    def raising():
        raise ValueError("one\\n  and two")
"""
SECONDS = 20


class Ended(NamedTuple):
    status: int
    out: str
    err: str


@contextmanager
def logging_as_it_was() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("triochan")
    handlers, levels = root.handlers[:], (root.level, own.level)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(levels[0])  # which also forgets what loggers have noted of it
        own.setLevel(levels[1])


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ended]]:
    """Runs a command line in this process, in a folder with ``hello.py``."""
    (tmp_path / "hello.py").write_text(textwrap.dedent(APP))
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    for name in ("TRIOCHAN_SECRET", "COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        # Set, so that what the command line itself sets is undone too; an empty one is none.
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("COLUMNS")
    known = set(sys.modules)

    def run(*arguments: str) -> Ended:
        try:
            status = cli.main(arguments)
        except SystemExit as error:
            status = error.code  # type: ignore[assignment]
        return Ended(status, *capsys.readouterr())

    with logging_as_it_was():
        yield run
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


# -- routes


def test_routes(run: Callable[..., Ended]) -> None:
    assert run("routes", "hello:routing", "--max-head-size", "2KiB") == (
        0,
        "CHANNEL       FILTER         CONSUMER     ORDER\n"
        "websocket.*   path=^/echo/$  hello:Echo   strict\n"
        "http.request  path=^/$       hello:hello\n"
        "\n"
        "max-head-size = 2KiB (command line)\n",
        "",
    )
    assert run("routes", "hello:empty").out == "no routes\n"


def test_routes_for_programs_and_in_colours(
    run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert '"consumer": "hello:Echo"' in run("routes", "--json", "hello:routing").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    first, *rest = run("routes", "hello:application").out.splitlines()
    assert first.startswith("\x1b[1mCHANNEL")
    assert max(map(len, rest)) <= 40


def test_routes_of_what_can_not_be_loaded(run: Callable[..., Ended]) -> None:
    ended = run("routes", "hello:nope")
    assert (ended.status, ended.out) == (2, "")
    assert "has no 'nope'" in ended.err


def test_a_command_says_its_own_name(run: Callable[..., Ended]) -> None:
    assert run("routes", "--xyzzy", "a:b").err == (
        "triochan routes: error: unrecognized arguments: --xyzzy\nTry 'triochan routes --help'.\n"
    )
    assert run("check").err.startswith(
        "triochan check: error: the following arguments are required: module:name"
    )
    assert "usage: triochan check [options] module:name" in run("check", "--help").out


@pytest.mark.parametrize("word", ["routes", "check"])
def test_a_module_may_be_called_as_a_command_is(run: Callable[..., Ended], tmp_path: Path, word: str) -> None:
    (tmp_path / f"{word}.py").write_text("from hello import routing")
    assert run("check", f"{word}:routing").out == f"{word}:routing: 2 routes, nothing is wrong\n"
    assert run(f"{word}:routing", "--show-config").out.split()[:2] == ["app", f"{word}:routing"]


def test_help_teaches_the_commands(run: Callable[..., Ended]) -> None:
    text = run("--help").out
    assert "triochan routes|check [options] module:name" in text
    assert "triochan check hello:routing" in text
    assert "--show-config" in text


# -- check


def test_nothing_is_wrong(run: Callable[..., Ended]) -> None:
    assert run("check", "hello:routing") == (0, "hello:routing: 2 routes, nothing is wrong\n", "")
    assert run("check", "hello:application", "--log-level", "debug", "--root-path", "/x").status == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hello:nope"], "error: module 'hello' ({folder}/hello.py) has no 'nope'"),
        (["absent:routing"], "error: there is no module 'absent' in {folder} or"),
        (["hello:raising", "--factory"], "'hello:raising' raised: ValueError: one and two ({folder}/hello.py:"),
        (["hello:empty"], "warning: there are no routes: every request gets 404, every handshake 403"),
        (["hello:unheard"], "warning: stream 'stats' of hello.Streams: nobody listens on channel 'internal.stats'"),
        (["hello:users"], "warning: hello:Mine has users, but there is no Application(user_loader=...)"),
        (["hello:users"], "warning: sessions outlive the process, but their cookies are signed with a random secret"),
        (["hello:shadowed", "--factory"], "warning: http.request path=^/$ → hello.hello is never asked: "),
        (["hello:routing", "--secret", "short"], "could not be imported: a secret has at least 16"),
        (["hello:routing", "--root-path", "x/"], "error: root_path is a path such as '/chat'"),
        (["hello:routing", "--host", "a..b"], "error: --host a..b: the name does not resolve ("),
        (["hello:routing", "--host", "127.0.0.1:80"], "error: --host 127.0.0.1:80: the name does not resolve ("),
        (["hello:routing", "--health-path", "x"], "error: health_path is a path such as"),
        (["hello:routing", "--forwarded-allow-ips", "x"], "error: a trusted proxy is an address"),
        (["hello:routing", "--ssl-certfile", "absent.pem"], "error: --ssl-certfile absent.pem: No such file"),
        (["hello:routing", "--ssl-certfile", "hello.py"], "error: hello.py holds no certificate"),
        (["hello:routing", "--only-channels", "x"], "error: --only-channels x: the routing has no named channels"),
        (["hello:routing", "--uds", "run/x"], "error: --uds run/x: there is no folder run"),
        (["hello:routing", "--session-file", "db/x"], "error: --session-file db/x: there is no folder db"),
        (["hello:routing", "--log-config", "hello.py"], "error: --log-config hello.py: this is no INI file"),
        (["hello:routing", "--config", "absent.toml"], "error: --config absent.toml: No such file or directory"),
        (["unread:routing"], "error: the module 'unread' could not be imported: SyntaxError: "),
        (["lacks:routing"], "imported: ModuleNotFoundError: No module named 'nowhere' ({folder}/lacks.py:1)"),
        (["living:application"], "imported: lifespan=living.life is a plain 'def' with a yield"),
        (["middle:application"], "error: the module 'middle' could not be imported: middleware[0] is int 3"),
        (["static:routing"], "imported: static_files: {folder}/absent is no folder ({folder}/static.py:2)"),
        (["misses:routing"], "recieve is called by nobody; did you mean 'receive'? ({folder}/misses.py:5)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_line(
    run: Callable[..., Ended], tmp_path: Path, arguments: list[str], said: str
) -> None:
    for name, source in {
        "unread": "def f(:",
        "lacks": "import nowhere",
        "living": "from contextlib import contextmanager\nfrom triochan import Application\n"
        "@contextmanager\ndef life(application):\n    yield\napplication = Application([], lifespan=life)",
        "middle": "from triochan import Application\napplication = Application([], middleware=[3])",
        "static": "from triochan.http import static_files\nrouting = [static_files('/', 'absent')]",
        "misses": "from triochan import route_class\nfrom triochan.generic.websockets import WebsocketConsumer\n"
        "class C(WebsocketConsumer):\n    async def recieve(self): ...\nrouting = [route_class(C)]",
    }.items():
        (tmp_path / f"{name}.py").write_text(source)
    ended = run("check", *arguments)
    assert (ended.status, ended.err) == (1, "")
    assert said.format(folder=tmp_path) in ended.out
    for line in ended.out.splitlines():
        assert line.startswith(("error: ", "warning: ")), line


def test_all_that_is_wrong_at_once(run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TRIOCHAN_XYZZY", "1")
    ended = run("check", "hello:nope", "--root-path", "x", "--uds", "run/x", "--log-config", "hello.py")
    assert ended.status == 1
    assert [line.partition("m")[2].partition(":")[0] for line in ended.out.splitlines()] == [
        "warning", "error", "error", "error", "error",
    ]  # fmt: skip
    assert ended.out.startswith("\x1b[33mwarning:\x1b[0m environment: TRIOCHAN_XYZZY")


def test_a_certificate_that_has_expired(run: Callable[..., Ended], tmp_path: Path) -> None:
    authority = trustme.CA()
    past = datetime.datetime.now() - datetime.timedelta(days=2)
    issued = authority.issue_cert("localhost", not_before=past, not_after=past + datetime.timedelta(days=1))
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "old.pem"))
    ended = run("check", "hello:routing", "--ssl-certfile", "old.pem")
    assert ended == (
        1,
        "warning: the certificate in old.pem has expired: browsers and other clients will refuse it\n",
        "",
    )
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "new.pem"))
    assert run("check", "hello:routing", "--ssl-certfile", "new.pem").status == 0


def test_the_log_config_of_a_server_is_not_the_check_s(run: Callable[..., Ended], tmp_path: Path) -> None:
    """It may well send away what is to be found."""
    (tmp_path / "log.toml").write_text('[loggers.triochan]\nlevel = "CRITICAL"')
    assert run("check", "hello:unheard", "--log-config", "log.toml").status == 1


# -- where options come from


def test_show_config(run: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.toml").write_text('app = "hello:routing"\nport = 1\nsecret = ["0123456789abcdef"]\n')
    (tmp_path / "my.toml").chmod(0o600)
    monkeypatch.setenv("TRIOCHAN_PORT", "2")
    ended = run("--config", "my.toml", "--show-config", "--ping-interval", "3")
    assert (ended.status, ended.err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in ended.out.splitlines()}
    assert rows["app"] == ["hello:routing", "my.toml:app"]
    assert rows["port"] == ["2", "environment", "TRIOCHAN_PORT"]
    assert rows["ping-interval"] == ["3", "s", "command", "line"]
    assert rows["secret"] == ["********", "my.toml:secret"]
    assert rows["max-head-size"] == ["16KiB", "default"]
    assert "0123456789" not in ended.out


def test_what_is_wrong_in_a_file_and_in_the_environment(
    run: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my.toml").write_text("prot = 1\n")
    monkeypatch.setenv("TRIOCHAN_PROT", "2")
    ended = run("hello:routing", "--config", "my.toml")
    assert ended == (
        2,
        "",
        "triochan: error: environment: there is no TRIOCHAN_PROT; did you mean TRIOCHAN_PORT?\n"
        "triochan: error: my.toml:1: prot: there is no such option; did you mean port?\n",
    )


def test_an_option_of_a_file_is_named_by_its_place(run: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('app-dir = "absent"\napp = "hello:routing"')
    assert "my.toml:app-dir absent: there is no such folder" in run("--config", "my.toml").err
    (tmp_path / "my.toml").write_text('allowed-host = "x"\napp = "hello:application"')
    assert "itself; drop my.toml:allowed-host" in run("--config", "my.toml").err


def test_a_secret_of_a_file_and_a_warning_reach_the_server(tmp_path: Path) -> None:
    value = "0123456789abcdef"
    (tmp_path / "telling.py").write_text(
        textwrap.dedent("""
            import os
            from contextlib import asynccontextmanager
            from triochan import Application

            @asynccontextmanager
            async def life(application):
                print(os.environ["TRIOCHAN_SECRET"], application.sessions.cookies.random, flush=True)
                raise SystemExit
                yield

            application = Application([], lifespan=life)
        """)
    )
    (tmp_path / "my.toml").write_text(f'secret = "{value}"\nport = 0\napp = "telling:application"\n')
    ended = subprocess.run(
        [sys.executable, "-m", "triochan", "--config", "my.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(triochan.__file__).parents[1])},
    )
    assert ended.stdout == f"{value} False\n"
    assert "WARNING  triochan.configuration: my.toml has a secret (secret), and others" in ended.stderr

"""An application's arguments, how servers open and close its stores, and what the command line makes of a routing."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from triochan import Application, Message, route
from triochan.exceptions import ImproperlyConfigured, SessionStoreUnavailable
from triochan.http import json, text
from triochan.sessions import MemorySessionStore, SqliteSessionStore, http_session
from triochan.test import Client, LiveServer


def test_what_is_no_store_is_found_at_once() -> None:
    for option in ("session_store", "channel_session_store"):
        with pytest.raises(ImproperlyConfigured, match=f"{option} is a SessionStore"):
            Application([], **{option: "sessions.sqlite3"})  # type: ignore[arg-type]


async def test_an_empty_store_is_a_store() -> None:
    store = MemorySessionStore()
    assert Application([], session_store=store).sessions.store is store


def test_an_application_is_itself() -> None:
    application = Application([])
    assert Application.of(application) is application
    assert Application.for_command_line(application, session_file="x") is application
    assert isinstance(Application.of([]).sessions.store, MemorySessionStore)
    assert isinstance(Application.for_command_line([]).sessions.store, SqliteSessionStore)
    assert len({application, Application([])}) == 2


async def test_the_state_may_be_an_object_of_the_programs_own() -> None:
    class Services:
        def __init__(self) -> None:
            self.visits = 0

        def __len__(self) -> int:  # empty is something too
            return 0

    async def visit(message: Message) -> dict[str, Any]:
        services: Services = message.application.state
        services.visits += 1
        return text(str(services.visits))

    services = Services()
    application = Application([route("http.request", visit)], state=services)
    assert application.state is services
    async with Client(application) as client:
        assert [(await client.get("/")).text for _ in range(2)] == ["1", "2"]
    assert type(Application([]).state) is SimpleNamespace


async def test_hooks_for_plain_values_are_those_that_were_there_when_it_began_to_serve() -> None:
    async def answer(message: Message) -> dict[str, Any]:
        return json("a")

    application = Application([route("http.request", answer)])
    application.converter.register_unstructure_hook(int, lambda number: number)
    assert application.converts_plain
    application = Application([route("http.request", answer)])
    said = []
    for _ in range(2):
        async with Client(application) as client:
            said.append((await client.get("/")).text)
            application.converter.register_unstructure_hook(str, lambda text: f"{text}!")
            said.append((await client.get("/")).text)
        assert application.converts_plain
    assert said == ['"a"', '"a"', '"a!"', '"a!"']


class Counting(MemorySessionStore):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def open(self) -> None:
        self.calls.append("open")

    async def close(self) -> None:
        self.calls.append("close")


async def test_a_store_is_open_for_as_long_as_any_server_runs() -> None:
    http_store, channel_store = Counting(), Counting()
    application = Application([], session_store=http_store, channel_session_store=channel_store)
    async with LiveServer(application):
        async with LiveServer(application):
            pass
        assert http_store.calls == ["open", "open"]
    assert http_store.calls == channel_store.calls == ["open", "open", "close"]


async def test_a_server_does_not_start_with_a_damaged_session_file(tmp_path: Path) -> None:
    path = tmp_path / "sessions.sqlite3"
    await trio.Path(path).write_bytes(b"x" * 4096)
    with pytest.RaisesGroup(SessionStoreUnavailable, flatten_subgroups=True, allow_unwrapped=True):
        async with LiveServer(Application([], session_store=SqliteSessionStore(path))):
            raise AssertionError


async def test_two_servers_in_one_run_have_their_own_sessions() -> None:
    @http_session
    async def counter(message: Message) -> None:
        message.http_session["count"] = message.http_session.get("count", 0) + 1
        await message.reply_channel.send(
            text(f"{message.application is one} {message.http_session['count']}")
        )

    routing = [route("http.request", counter)]
    one, two = Application(routing), Application(routing)
    async with Client(one) as first, Client(two) as second:
        assert [(await first.get("/")).text for _ in range(3)] == ["True 1", "True 2", "True 3"]
        second.cookies.update(first.cookies)
        assert (await second.get("/")).text == "False 1"


# -- from the command line

PROGRAM = """
from triochan import Application, route
from triochan.http import text
from triochan.sessions import http_session

@http_session
async def counter(message):
    message.http_session["count"] = message.http_session.get("count", 0) + 1
    await message.reply_channel.send(text(str(message.http_session["count"])))

routing = [route("http.request", counter)]
application = Application(routing)
"""
SECRET = "a secret that is long enough"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "counting.py").write_text(PROGRAM)
    return tmp_path


@contextmanager
def served(folder: Path, *options: str, secret: str | None = None) -> Iterator[Any]:
    """Serve it; gives a function that asks it, with a cookie, and says the body and the cookie."""
    environment = {key: value for key, value in os.environ.items() if key != "TRIOCHAN_SECRET"}
    if secret is not None:
        environment["TRIOCHAN_SECRET"] = secret
    command = [sys.executable, "-m", "triochan", "--port", "0", *options]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().partition("127.0.0.1:")[2].partition(" ")[0])

        def ask(cookie: str | None = None) -> tuple[str, str | None]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
            connection.request("GET", "/", headers={"Cookie": cookie} if cookie else {})
            response = connection.getresponse()
            body, header = response.read().decode(), response.getheader("Set-Cookie")
            connection.close()
            return body, None if header is None else header.partition(";")[0]

        try:
            yield ask
        finally:
            process.terminate()
            _, ask.stderr = process.communicate(timeout=15)  # type: ignore[attr-defined]
            assert process.returncode == 0


@pytest.mark.parametrize("how", ["variable", "option"])
def test_a_restart_keeps_people_logged_in(folder: Path, how: str) -> None:
    options = ["counting:routing", *(["--secret", SECRET] if how == "option" else [])]
    secret = SECRET if how == "variable" else None
    with served(folder, *options, secret=secret) as ask:
        assert not (folder / "triochan-sessions.sqlite3").exists()
        body, cookie = ask()
        assert body == "1"
        assert (folder / "triochan-sessions.sqlite3").exists()
    with served(folder, *options, secret=secret) as ask:
        assert ask(cookie)[0] == "2"
    assert "secret" not in ask.stderr
    with served(folder, "counting:routing", secret=f"a newer secret than that,{SECRET}") as ask:
        assert ask(cookie)[0] == "3"


def test_without_a_secret_a_restart_logs_everybody_out_and_the_log_says_so(folder: Path) -> None:
    with served(folder, "counting:routing") as ask:
        _, cookie = ask()
        assert ask(cookie)[0] == "2"
    assert ask.stderr.count("no secret is configured") == 1
    with served(folder, "counting:routing") as ask:
        assert ask(cookie)[0] == "1"


def test_the_session_file_may_be_another(folder: Path) -> None:
    with served(folder, "counting:routing", "--session-file", "mine.db", secret=SECRET) as ask:
        ask()
    assert (folder / "mine.db").exists()
    assert not (folder / "triochan-sessions.sqlite3").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["counting:application", "--session-file", "x"],
            "is an Application, which says session_store=… itself; drop --session-file",
        ),
        (["counting:routing", "--secret", "short"], "a secret has at least 16 characters"),
        (["counting:application", "--secret", "short"], "a secret has at least 16 characters"),
        (["counting:routing", "--session-file", "counting.py"], "the session file counting.py can't be used"),
    ],
)
def test_what_can_not_be_served_is_said(folder: Path, options: list[str], says: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "triochan", "--port", "0", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode in (1, 2)
    assert says in result.stderr
    assert result.stdout == ""

"""The login example: its pages and its socket in memory, and all of it in a real browser."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import AsyncIterator, Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trio
from browsers import Process, Window, open_windows

from triochan import Application
from triochan.exceptions import ConnectionClosed
from triochan.sessions import MemorySessionStore
from triochan.test import Client, Response

if not os.environ.get("CI"):
    pytest.importorskip("argon2", reason="the login example needs argon2-cffi: pip install -e '.[examples]'")

import argon2
import login
import login.accounts
import login.consumers

PASSWORD = "correct horse battery staple"
ORIGIN = {"Origin": "http://testserver"}


# -- in memory


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """The example's application, with accounts of its own."""
    accounts = login.accounts.Accounts(str(tmp_path / "accounts.sqlite3"))
    accounts._hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(login.consumers, "accounts", accounts)
    routing = [*login.routing]
    yield Application(
        routing,
        session_store=MemorySessionStore(),
        secrets=["a secret that is long enough"],
        user_loader=login.consumers.load_user,
    )
    if accounts._database is not None:
        accounts._database.close()


@pytest.fixture
async def client(application: Application) -> AsyncIterator[Client]:
    async with Client(application) as client:
        yield client


async def submit(client: Client, path: str, headers: dict[str, str] | None = None, **fields: str) -> Response:
    return await client.post(path, headers=ORIGIN if headers is None else headers, body=urlencode(fields))


def problem(response: Response) -> str:
    found = re.search(r'role="alert">(.*?)</p>', response.text, re.DOTALL)
    assert found is not None
    return unescape(found[1])


async def test_register_log_out_and_log_in(client: Client) -> None:
    response = await client.get("/")
    assert (response.status, response.header("location")) == (303, "/login")
    response = await submit(client, "/register", name=" Ada  Lovelace ", password=PASSWORD)
    assert (response.status, response.header("location")) == (303, "/")
    assert '<h1 id="who">Ada Lovelace</h1>' in (await client.get("/")).text
    response = await submit(client, "/logout")
    assert response.header("location") == "/login"
    assert (await client.get("/")).status == 303
    response = await submit(client, "/login", name="ada lovelace", password=PASSWORD)
    assert response.status == 303
    assert (await client.get("/")).status == 200


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "Ada", "password": PASSWORD}, "Somebody has that name already."),
        ({"name": "ＡＤＡ", "password": PASSWORD}, "Somebody has that name already."),
        ({"name": " ", "password": PASSWORD}, "A name has 1 to 24 characters."),
        ({"name": "x" * 25, "password": PASSWORD}, "A name has 1 to 24 characters."),
        ({"name": "a\0b", "password": PASSWORD}, "A name has 1 to 24 characters."),
        ({"name": "Grace", "password": "short"}, "A password has at least 8 characters."),
        ({}, "A name has 1 to 24 characters."),
    ],
)
async def test_what_is_no_account(client: Client, fields: dict[str, str], says: str) -> None:
    await submit(client, "/register", name="Ada", password=PASSWORD)
    client.cookies.clear()
    response = await submit(client, "/register", None, **fields)
    assert response.status == 422
    assert problem(response) == says
    assert not client.cookies


@pytest.mark.parametrize(
    "fields", [{"name": "Ada", "password": "wrong"}, {"name": "Bob", "password": PASSWORD}, {}]
)
async def test_it_is_not_said_which_of_the_two_is_wrong(client: Client, fields: dict[str, str]) -> None:
    await submit(client, "/register", name="Ada", password=PASSWORD)
    response = await submit(client, "/login", None, **fields)
    assert response.status == 422
    assert problem(response) == "There is no account with this name and this password."


async def test_forms_of_other_sites_are_refused(client: Client) -> None:
    await submit(client, "/register", name="Ada", password=PASSWORD)
    for path in ("/login", "/register", "/logout"):
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {}):
            response = await submit(client, path, headers, name="Ada", password=PASSWORD)
            assert response.status == 403
    assert (await client.get("/logout")).status == 403
    assert (await client.get("/")).status == 200


async def test_names_are_text_on_the_page(client: Client) -> None:
    name = "<b>\"&'$name"
    await submit(client, "/register", name=name, password=PASSWORD)
    page = (await client.get("/")).text
    assert "<b>" not in page
    assert unescape(page).count(name) == 2
    page = (await submit(client, "/login", name=name, password="wrong")).text
    assert "<b>" not in page


async def test_passwords_are_not_stored(client: Client, tmp_path: Path) -> None:
    await submit(client, "/register", name="Ada", password=PASSWORD)
    for path in await trio.Path(tmp_path).iterdir():
        assert PASSWORD.encode() not in await path.read_bytes()
    [[stored]] = await login.consumers.accounts._run("SELECT hash FROM accounts")
    assert stored.startswith("$argon2id$")


async def test_hashes_from_before_are_renewed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await submit(client, "/register", name="Ada", password=PASSWORD)
    monkeypatch.setattr(
        login.consumers.accounts, "_hasher", argon2.PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)
    )
    await submit(client, "/login", name="Ada", password=PASSWORD)
    [[stored]] = await login.consumers.accounts._run("SELECT hash FROM accounts")
    assert "t=2" in stored


async def test_the_socket_knows_its_user_in_every_handler(client: Client) -> None:
    await submit(client, "/register", name="Ada", password=PASSWORD)
    async with client.websocket("/live/") as first:
        assert await first.receive_json() == {"type": "note", "note": ""}
        event = {"type": "handler", "handler": "connect", "user": "Ada", "windows": 1}
        assert await first.receive_json() == event
        async with client.websocket("/live/") as second:
            assert await first.receive_json() == {**event, "windows": 2}
            await second.send_json({"note": "milk", "from": "2"})
            assert await first.receive_json() == {"type": "note", "note": "milk", "from": "2"}
            assert await first.receive_json() == {**event, "handler": "receive", "windows": 2}
        assert await first.receive_json() == {**event, "handler": "disconnect"}
        content: Any
        for content in ({"note": 7}, {"note": "x" * 2001}, {}, [], None):
            await first.send_json(content)
            assert (await first.receive_json())["type"] == "error"
    async with client.websocket("/live/") as third:
        assert await third.receive_json() == {"type": "note", "note": "milk"}


async def test_logging_out_closes_every_socket_of_the_user_only(
    application: Application, client: Client
) -> None:
    await submit(client, "/register", name="Ada", password=PASSWORD)
    async with Client(application) as other, client.websocket("/live/") as ada:
        await submit(other, "/register", name="Grace", password=PASSWORD)
        async with other.websocket("/live/") as grace:
            assert await grace.receive_json() == {"type": "note", "note": ""}
            await submit(client, "/logout")
            closed = await ada.wait_closed()
            assert (closed.code, closed.reason) == (3000, "logged out")
            await grace.receive_json()
            await grace.send_json({"note": "still here"})
            assert (await grace.receive_json())["note"] == "still here"


async def test_without_a_user_the_socket_says_so(client: Client) -> None:
    async with client.websocket("/live/") as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.receive()
        assert closed.value.code == 4401


MARKS = "a" + "\u0300\u0301" * 40_000
"""Marks that Unicode's normal form has to sort."""


@pytest.mark.parametrize("path", ["/login", "/register"])
@pytest.mark.parametrize(
    "name",
    [MARKS, "a" * 49, " " * 100_000 + "Ada", "\ufdfa" * 100_000],
    ids=["marks", "long", "spaces", "wide"],
)
async def test_a_name_that_is_too_long_is_refused_before_anything_is_made_of_it(
    client: Client, monkeypatch: pytest.MonkeyPatch, path: str, name: str
) -> None:
    normalized = []
    normalize = unicodedata.normalize

    def counted(form: Any, text: str) -> str:
        normalized.append(len(text))
        return normalize(form, text)

    monkeypatch.setattr("login.accounts.unicodedata.normalize", counted)
    assert (await submit(client, path, name=name, password=PASSWORD)).status == 422
    assert normalized == []
    assert (await submit(client, "/register", name="Ada", password=PASSWORD)).status == 303
    assert normalized == [3]


@pytest.mark.slow
async def test_hashing_keeps_nobody_waiting(client: Client) -> None:
    """Two at a time, in threads: a page comes while ten people log in."""
    hashing = login.consumers.accounts._hashing
    highest = 0

    async def watch() -> None:
        nonlocal highest
        while True:
            highest = max(highest, hashing.borrowed_tokens)
            await trio.lowlevel.checkpoint()

    login.consumers.accounts._hasher = argon2.PasswordHasher(time_cost=1, memory_cost=4096, parallelism=1)
    async with trio.open_nursery() as watching:
        watching.start_soon(watch)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(lambda: submit(client, "/login", name="Ada", password=PASSWORD))
            assert (await client.get("/login")).status == 200
        watching.cancel_scope.cancel()
    assert highest == 2


# -- in a real browser, against a server in a process of its own


class Browser(Window):
    """One person's browser, with the example in one window or two, and a log of all that they fetch."""

    logs = ("browser", "performance")

    def fill_in(self, name: str, password: str) -> None:
        for field, value in (("#name", name), ("#password", password)):
            self.element(field).clear()
            self.element(field).send_keys(value)
        self.element("form .primary").click()

    def wait_online(self) -> None:
        self.wait_for("#state", "Online")

    def note(self) -> str:
        return str(self.run("return document.getElementById('note').value"))

    def handlers(self) -> list[tuple[str, str]]:
        """What the page shows of the handlers that ran: name and user, the last one first."""
        script = """return [...document.querySelectorAll("#handlers li")].map(
            (item) => [...item.children].map((part) => part.textContent))"""
        return [(handler, user) for handler, user, _ in self.run(script)]

    def open_window(self, url: str) -> None:
        self.driver.switch_to.new_window("window")
        self.open(url)

    def go_to(self, index: int) -> None:
        self.driver.switch_to.window(self.driver.window_handles[index])

    def is_wider_than_its_window(self) -> bool:
        return bool(self.run("return document.documentElement.scrollWidth > innerWidth"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    database = str(tmp_path / "login.sqlite3")
    secret = "a secret that is long enough"
    server = Process("login:application", {"LOGIN_DATABASE": database, "TRIOCHAN_SECRET": secret})
    server.start()
    yield server
    server.stop()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with open_windows(1, Browser) as [browser]:
        yield browser


@pytest.mark.browser
@pytest.mark.slow
def test_in_a_browser(server: Process, browser: Browser) -> None:
    pictures = os.environ.get("TRIOCHAN_SCREENSHOTS")

    def picture(name: str) -> None:
        for device, width, height in (("desktop", 1180, 800), ("phone", 390, 780)):
            browser.emulate(width=width, height=height, phone=device == "phone")
            assert not browser.is_wider_than_its_window(), f"{name} is wider than a {device}"
            if pictures:
                browser.driver.save_screenshot(f"{pictures}/login-{name}-{device}.png")
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    # Register, by way of the page that says that one has to.
    browser.open(server.url)
    browser.wait(lambda: browser.texts("h1") == ["Log in"])
    picture("log-in")
    browser.fill_in("Ada", PASSWORD)
    browser.wait(lambda: any("no account" in problem for problem in browser.texts(".problem")))
    picture("problem")
    browser.element(".other a").click()
    browser.wait(lambda: browser.texts("h1") == ["Create an account"])
    browser.fill_in("Ada", PASSWORD)
    browser.wait_online()
    assert browser.texts("#who") == ["Ada"]
    browser.wait(lambda: browser.handlers() == [("connect", "Ada")])

    # A second window, and a note in both of them.
    browser.open_window(server.url)
    browser.wait_online()
    browser.wait(lambda: browser.element("#note").is_enabled())
    browser.element("#note").send_keys("Milk, eggs & <b>bread</b>")
    browser.wait(lambda: browser.handlers() == [("receive", "Ada"), ("connect", "Ada")])
    assert browser.texts("#windows") == ["in 2 windows"]
    browser.go_to(0)
    browser.wait(lambda: browser.note() == "Milk, eggs & <b>bread</b>")
    assert browser.handlers() == [("receive", "Ada"), ("connect", "Ada"), ("connect", "Ada")]
    picture("home")
    browser.driver.refresh()
    browser.wait_online()
    browser.wait(lambda: browser.note() == "Milk, eggs & <b>bread</b>")
    browser.go_to(1)
    browser.wait(lambda: browser.handlers()[:2] == [("connect", "Ada"), ("disconnect", "Ada")])

    # A restart logs nobody out.
    server.stop()
    browser.wait(lambda: browser.texts("#state") == ["Offline"])
    server.start()
    browser.go_to(1)
    browser.open(server.url)
    browser.wait_online()
    assert browser.texts("#who") == ["Ada"]
    browser.go_to(0)
    browser.run("window.dispatchEvent(new Event('online'))")
    browser.wait_online()

    # Log out in one window, and the other one is logged out by the server.
    browser.go_to(1)
    browser.element("#log-out").click()
    browser.wait(lambda: browser.texts("h1") == ["Log in"])
    browser.go_to(0)
    browser.wait(lambda: browser.texts("h1") == ["Log in"], "the other window is not logged out")
    browser.open(server.url)
    assert browser.texts("h1") == ["Log in"]

    assert browser.errors(but=("ERR_CONNECTION_REFUSED", "422")) == []
    fetched = re.findall(
        r'"url":"(?:https?|wss?)://([^/"]+)',
        str([each["message"] for each in browser.driver.get_log("performance")]),
    )
    assert set(fetched) <= {f"127.0.0.1:{server.port}"}

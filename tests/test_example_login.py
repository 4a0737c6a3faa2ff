"""The login example: its pages and its socket in memory, and all of it in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trio

from triochan import Application
from triochan.exceptions import ConnectionClosed
from triochan.sessions import MemorySessionStore
from triochan.test import Client, Response

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

if not os.environ.get("CI"):
    pytest.importorskip("argon2", reason="the login example needs argon2-cffi: pip install -e '.[examples]'")

import argon2  # noqa: E402
import login  # noqa: E402
import login.accounts  # noqa: E402
import login.consumers  # noqa: E402

PATIENCE = 15
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
    response = await submit(client, "/register", **fields)
    assert response.status == 422
    assert problem(response) == says
    assert not client.cookies


@pytest.mark.parametrize(
    "fields", [{"name": "Ada", "password": "wrong"}, {"name": "Bob", "password": PASSWORD}, {}]
)
async def test_it_is_not_said_which_of_the_two_is_wrong(client: Client, fields: dict[str, str]) -> None:
    await submit(client, "/register", name="Ada", password=PASSWORD)
    response = await submit(client, "/login", **fields)
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
        for wrong in ({"note": 7}, {"note": "x" * 2001}, {}, [], None):
            await first.send_json(wrong)
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


TOOLS = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "chromedriver": ("chromedriver",)}


def tool(name: str) -> str:
    found = next(filter(None, map(shutil.which, TOOLS[name])), None)
    if found is None:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say(f"the browser test needs {name}: apt-get install chromium chromium-driver")
    return found


class Server:
    """``python -m triochan`` on a port and with a database that it keeps when it is started again."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder

    def start(self) -> None:
        environment = {
            **os.environ,
            "LOGIN_DATABASE": str(self._folder / "login.sqlite3"),
            "TRIOCHAN_SECRET": "a secret that is long enough",
        }
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "triochan",
                "--app-dir",
                str(EXAMPLES),
                "login:application",
                "--port",
                str(self.port),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._relay, args=(self._process,), daemon=True)
        self._reader.start()
        assert self._listening.wait(PATIENCE), "the server did not say its address"

    def _relay(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                print(line, end="")
                if self.url in line:
                    self._listening.set()
        self._listening.set()

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait(PATIENCE) == 0
        self._reader.join(PATIENCE)


class Browser:
    """One person's browser."""

    def __init__(self, chromium: str, chromedriver: str) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        for argument in ("headless=new", "window-size=1180,800", "disable-gpu", "disable-dev-shm-usage"):
            options.add_argument(f"--{argument}")
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")  # as root, the sandbox refuses to start
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))

    def element(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent.trim())"
        return list(self.driver.execute_script(script, selector))

    def wait(self, condition: Callable[[], object], what: str = "") -> None:
        from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        passing = (NoSuchElementException, StaleElementReferenceException)
        WebDriverWait(self.driver, PATIENCE, 0.05, passing).until(lambda _: condition(), what)

    def fill_in(self, name: str, password: str) -> None:
        for field, value in (("#name", name), ("#password", password)):
            self.element(field).clear()
            self.element(field).send_keys(value)
        self.element("form .primary").click()

    def wait_online(self) -> None:
        self.wait(lambda: self.texts("#state") == ["Online"], "the page never was online")

    def note(self) -> str:
        return str(self.driver.execute_script("return document.getElementById('note').value"))

    def handlers(self) -> list[tuple[str, str]]:
        """What the page shows of the handlers that ran: name and user, the last one first."""
        script = """return [...document.querySelectorAll("#handlers li")].map(
            (item) => [...item.children].map((part) => part.textContent))"""
        return [(handler, user) for handler, user, _ in self.driver.execute_script(script)]

    def open_window(self, url: str) -> None:
        self.driver.switch_to.new_window("window")
        self.driver.get(url)

    def go_to(self, index: int) -> None:
        self.driver.switch_to.window(self.driver.window_handles[index])

    def is_wider_than_its_window(self) -> bool:
        return bool(self.driver.execute_script("return document.documentElement.scrollWidth > innerWidth"))

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def browser() -> Iterator[Browser]:
    browser = Browser(tool("chromium"), tool("chromedriver"))
    yield browser
    browser.driver.quit()


def test_in_a_browser(server: Server, browser: Browser) -> None:
    pictures = os.environ.get("TRIOCHAN_SCREENSHOTS")

    def picture(name: str) -> None:
        for device, width, height in (("desktop", 1180, 800), ("phone", 390, 780)):
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": device == "phone"}
            browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            assert not browser.is_wider_than_its_window(), f"{name} is wider than a {device}"
            if pictures:
                browser.driver.save_screenshot(f"{pictures}/login-{name}-{device}.png")
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    # Register, by way of the page that says that one has to.
    browser.driver.get(server.url)
    browser.wait(lambda: browser.texts("h1") == ["Log in"])
    picture("log-in")
    browser.fill_in("Ada", PASSWORD)
    browser.wait(lambda: "no account" in browser.texts(".problem")[0])
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
    browser.driver.get(server.url)
    browser.wait_online()
    assert browser.texts("#who") == ["Ada"]
    browser.go_to(0)
    browser.driver.execute_script("window.dispatchEvent(new Event('online'))")
    browser.wait_online()

    # Log out in one window, and the other one is logged out by the server.
    browser.go_to(1)
    browser.element("#log-out").click()
    browser.wait(lambda: browser.texts("h1") == ["Log in"])
    browser.go_to(0)
    browser.wait(lambda: browser.texts("h1") == ["Log in"], "the other window is not logged out")
    browser.driver.get(server.url)
    assert browser.texts("h1") == ["Log in"]

    unexpected = [
        error for error in browser.errors() if "ERR_CONNECTION_REFUSED" not in error and "422" not in error
    ]
    assert unexpected == []
    fetched = re.findall(
        r'"url":"(?:https?|wss?)://([^/"]+)',
        str([each["message"] for each in browser.driver.get_log("performance")]),
    )
    assert set(fetched) <= {f"127.0.0.1:{server.port}"}

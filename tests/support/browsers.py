"""Real browsers and real servers for the tests of examples: headless Chromium, ``python -m triochan`` in a process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 30
"""Seconds that anything may take; nothing does."""
_TOOLS = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "chromedriver": ("chromedriver",)}


def _tool(name: str) -> str:
    found = next(filter(None, map(shutil.which, _TOOLS[name])), None)
    if found is None:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say(f"the browser test needs {name}: apt-get install chromium chromium-driver")
    return found


class Process:
    """``python -m triochan`` with an example, on a port that it keeps when it is started again."""

    def __init__(self, app: str, environment: Mapping[str, str], *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [
            sys.executable,
            "-m",
            "triochan",
            "--app-dir",
            str(EXAMPLES),
            app,
            "--port",
            str(self.port),
            *options,
        ]
        self._environment = {**os.environ, **environment}

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        # What it writes is taken off the pipe, and shown where a test fails.
        self._listening = threading.Event()
        self._relaying = threading.Thread(target=self._relay, args=(self._process,), daemon=True)
        self._relaying.start()
        assert self._listening.wait(PATIENCE), "the server did not say its address"
        assert self._process.poll() is None, "the server did not start"

    def _relay(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                print(line, end="")
                if self.url in line:
                    self._listening.set()
        self._listening.set()

    def hang(self) -> None:
        """It is there, and does nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        """It is asked to end, and ends well."""
        self._process.terminate()
        assert self._process.wait(PATIENCE) == 0
        self._relaying.join(PATIENCE)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)


class Window:
    """One person's browser."""

    logs: tuple[str, ...] = ("browser",)
    """What ``driver.get_log`` is to know of."""

    def __init__(self, chromium: str, chromedriver: str) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        options.set_capability("goog:loggingPrefs", dict.fromkeys(self.logs, "ALL"))
        for argument in ("headless=new", "window-size=1180,800", "disable-gpu", "disable-dev-shm-usage"):
            options.add_argument(f"--{argument}")
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")  # as root, the sandbox refuses to start
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))

    def open(self, url: str) -> None:
        self.driver.get(url)

    def element(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        """What is in the elements that are shown now, in one look, for they may be replaced at any time."""
        script = """return [...document.querySelectorAll(arguments[0])].filter((each) => each.checkVisibility())
                           .map((each) => each.textContent.trim())"""
        return list(self.run(script, selector))

    def wait(self, condition: Callable[[], object], what: str = "") -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, PATIENCE, poll_frequency=0.05).until(lambda _: condition(), what)

    def wait_for(self, selector: str, *texts: str) -> None:
        """Wait until the texts of the elements that are shown are these."""
        try:
            self.wait(lambda: self.texts(selector) == list(texts))
        except Exception as error:
            raise AssertionError(f"{selector} never was {list(texts)}, but {self.texts(selector)}") from error

    def emulate(
        self, *, width: int = 1180, height: int = 800, phone: bool = False, dark: bool = False
    ) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def errors(self, *, but: tuple[str, ...] = ("WebSocket connection to",)) -> list[str]:
        """What went wrong that only a console would show, but for (unless told otherwise) a server that was away."""
        log = self.driver.get_log("browser")
        errors = [entry["message"] for entry in log if entry["level"] == "SEVERE"]
        return [error for error in errors if not any(each in error for each in but)]


@contextmanager
def open_windows(number: int, kind: type[Window] = Window) -> Any:
    """That many browsers, opened at once."""
    tools = [_tool("chromium"), _tool("chromedriver")]
    with ThreadPoolExecutor(number) as pool:
        opened = [pool.submit(kind, *tools) for _ in range(number)]
        try:
            yield [each.result() for each in opened]
        finally:
            list(
                pool.map(
                    lambda each: each.driver.quit(),
                    [each.result() for each in opened if not each.exception()],
                )
            )

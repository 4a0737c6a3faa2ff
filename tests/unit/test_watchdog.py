"""What ends the process where nothing else does."""

from __future__ import annotations

import logging
import threading

import pytest

from triochan.watchdog import Watchdog, busy_threads

SECONDS = 10


@pytest.fixture
def ended() -> threading.Event:
    return threading.Event()


def test_it_says_what_is_left_and_ends_the_process(
    ended: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    Watchdog(ended.set).start(0, lambda: "one thing")
    assert ended.wait(SECONDS)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("triochan.server", logging.CRITICAL)
    assert record.getMessage() == (
        "the shutdown did not end in time, the process does: exit status 1. Left: one thing"
    )


def test_it_ends_the_process_even_where_it_can_not_say_why(
    ended: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_value))

    def left() -> str:
        raise RuntimeError("the dict has changed")

    Watchdog(ended.set).start(0, left)
    assert ended.wait(SECONDS)
    for thread in threading.enumerate():
        if thread.name == "triochan's watchdog":
            thread.join(SECONDS)
    assert [str(error) for error in raised] == ["the dict has changed"]


def test_it_is_called_off(ended: threading.Event) -> None:
    watchdog = Watchdog(ended.set)
    watchdog.cancel()
    watchdog.start(0.05, str)
    watchdog.cancel()
    watchdog.cancel()
    assert not ended.wait(0.2)


def test_the_last_word_counts(ended: threading.Event) -> None:
    watchdog = Watchdog(ended.set)
    watchdog.start(60, lambda: "late")
    watchdog.start(0, lambda: "soon")
    assert ended.wait(SECONDS)


def test_its_thread_holds_up_nothing(ended: threading.Event) -> None:
    watchdog = Watchdog(ended.set)
    before = threading.enumerate()  # one that was called off may not have noticed yet
    watchdog.start(60, str)
    [thread] = [each for each in threading.enumerate() if each not in before]
    assert thread.name == "triochan's watchdog"
    assert thread.daemon
    watchdog.cancel()
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_threads_that_do_something() -> None:
    done = threading.Event()
    names = ["read_file from handler", "Trio thread 7"]
    threads = [threading.Thread(target=done.wait, name=name) for name in names]
    for thread in threads:
        thread.start()
    try:
        assert "read_file from handler" in busy_threads()
        assert "Trio thread 7" not in busy_threads()
        assert threading.main_thread().name not in busy_threads()
    finally:
        done.set()
        for thread in threads:
            thread.join()

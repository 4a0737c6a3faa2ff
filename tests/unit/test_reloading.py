"""``--reload``: which files matter, and how a child is let go."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from triochan.reloading import GO, LOADED, Filter, Leash


@pytest.mark.parametrize(
    ("path", "includes", "excludes", "matters"),
    [
        ("/app/chat.py", [], [], True),
        ("/app/deep/er/chat.py", [], [], True),
        ("/app/page.html", [], [], False),
        ("/app/page.html", ["*.html"], [], True),
        ("/app/templates/page.html", ["templates/*"], [], True),
        ("/app/chat.py", ["*.html"], [], True),  # it comes beside the default
        ("/app/chat.py", ["*.html"], ["*.py"], False),  # unless that is taken out
        ("/app/tests/test_chat.py", [], ["tests"], False),
        ("/app/tests/test_chat.py", [], ["test_*"], False),
        ("/app/.venv/lib/chat.py", [], [], False),
        ("/app/.hidden.py", [], [], False),
        ("/app/.env", [".env"], [], False),  # .* is left out still
        ("/app/.env", [".env", ".*"], [], True),
        ("/app/~chat.py", [], [], False),
        ("/elsewhere/chat.py", [], [], False),
        ("/home/.hidden/chat.py", [], [], True),  # what is above the folder is not looked at
    ],
)
def test_what_matters(path: str, includes: list[str], excludes: list[str], matters: bool) -> None:
    watched = Filter([Path("/app"), Path("/home/.hidden")], includes, excludes)
    assert watched(None, path) == matters


async def test_a_server_that_has_ended_by_itself_is_let_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent lets go while the process writes its last words."""
    ours, theirs = socket.socketpair()
    ended: list[object] = []
    waited = threading.Event()

    def end(status: int) -> None:
        ended.append(status)
        waited.set()

    monkeypatch.setattr("triochan.reloading.time", SimpleNamespace(sleep=ended.append))
    monkeypatch.setattr("triochan.reloading.os", SimpleNamespace(_exit=end))
    leash = Leash(str(theirs.detach()))

    def run() -> None:
        async def serve() -> None:
            with trio.move_on_after(0):
                await leash.gone(9)

        trio.run(serve)

    await trio.to_thread.run_sync(run)
    ours.sendall(GO)
    leash.wait()
    assert ours.recv(1) == LOADED
    ours.close()
    assert await trio.to_thread.run_sync(waited.wait, 5)
    assert ended == [9, 1]  # it has waited before it ended the process
    leash._line.close()

"""``--reload``: which files matter."""

from __future__ import annotations

from pathlib import Path

import pytest

from triochan.reloading import Filter


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

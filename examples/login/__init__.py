"""Accounts: register, log in, and a page whose socket knows its user in every handler.

Run it, and open http://127.0.0.1:8000/ in two windows::

    python -m triochan --app-dir examples login:application

What is written into the note of one window stands in the other one. Log out in one of them: the other one's socket is
closed by the server, and its page is the log-in page again. Accounts and sessions are in one SQLite file,
``login.sqlite3`` or what ``LOGIN_DATABASE`` says, so with a secret that stays the same a restart logs nobody out::

    TRIOCHAN_SECRET=… python -m triochan --app-dir examples login:application

It needs argon2-cffi, for the passwords: ``pip install 'triochan[examples]'``.
"""

from __future__ import annotations

from pathlib import Path

from triochan import Application, route, route_class
from triochan.http import client_route, static_files
from triochan.sessions import SqliteSessionStore

from . import consumers
from .accounts import DATABASE

routing = [
    route_class(consumers.Live, path=r"^/live/$"),
    client_route(),
    static_files("/static/", Path(__file__).parent / "page"),
    route("http.request", consumers.home, path=r"^/$"),
    route("http.request", consumers.log_in, path=r"^/login$"),
    route("http.request", consumers.register, path=r"^/register$"),
    route("http.request", consumers.log_out, path=r"^/logout$"),
]

application = Application(
    routing,
    session_store=SqliteSessionStore(DATABASE),
    user_loader=consumers.load_user,
)

"""A live blog: posts and numbers that are edited at the desk, and change in every reader's window, by data binding.

Run it, and open http://127.0.0.1:8000/ in one window and http://127.0.0.1:8000/desk in another::

    python -m triochan --app-dir examples liveblog:application

The desk asks for a password: what ``LIVEBLOG_PASSWORD`` says, ``letmein`` where it says nothing. Everything is in an
SQLite file, ``liveblog.sqlite3`` or what ``LIVEBLOG_DATABASE`` says; so nothing is lost when the server is killed, and
the pages come back by themselves when it is there again.

It needs SQLAlchemy: ``pip install 'triochan[sqlalchemy]'``.
"""

from __future__ import annotations

from pathlib import Path

from triochan import Application, route, route_class
from triochan.http import client_route, static_files
from triochan.sessions import SqliteSessionStore

from . import consumers
from .models import DATABASE, get_secret

routing = [
    route_class(consumers.Reader, path=r"^/live$"),
    route_class(consumers.Desk, path=r"^/desk/live$"),
    route("http.request", consumers.show_blog, path=r"^/$", method=r"^(?:GET|HEAD)$"),
    route("http.request", consumers.show_desk, path=r"^/desk$"),
    route("http.request", consumers.log_out, path=r"^/desk/logout$"),
    static_files("/static/", Path(__file__).parent / "page"),
    client_route(),
]

application = Application(
    routing,
    session_store=SqliteSessionStore(DATABASE),
    # Kept with the sessions, so that a restart logs nobody out.
    secrets=[get_secret()],
    user_loader=consumers.load_user,
)

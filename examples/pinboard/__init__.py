"""A pinboard: pages by templates, and the very same template for what comes over the socket.

Run it, and open http://127.0.0.1:8000/ in two windows::

    python -m triochan --app-dir examples pinboard:routing

A note is pinned by an ordinary form. The page is Jinja's, and so is the piece of HTML that all open pages are sent:
what it looks like is said once, in ``page/notes.html``. Templates are the program's own affair; triochan sends text.

It needs Jinja: ``pip install 'triochan[examples]'``.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import attrs
import jinja2

from triochan import Message, route
from triochan.exceptions import HttpError
from triochan.generic.websockets import JsonWebsocketConsumer
from triochan.http import client_route, form, html, redirect, static_files

PAGE = Path(__file__).parent / "page"
MAX_TEXT = 200
MAX_NOTES = 50

# Autoescape is what keeps a note with markup in it a text; Jinja has it off unless it is told.
templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PAGE), autoescape=True, undefined=jinja2.StrictUndefined
)


@attrs.frozen
class Note:
    text: str
    colour: str


COLOURS = ("yellow", "pink", "blue", "green")
notes: deque[Note] = deque(maxlen=MAX_NOTES)


def render(template: str, **values: Any) -> str:
    return templates.get_template(template).render(**values)


class Board(JsonWebsocketConsumer):
    """An open page: it is sent the board when it comes, or comes back, and then each new note; pieces of HTML."""

    groups = ["board"]

    async def connect(self, message: Message, **kwargs: Any) -> None:
        await self.send({"board": render("notes.html", notes=reversed(notes))})


async def show(message: Message) -> dict[str, Any]:
    page = render("board.html", notes=reversed(notes), colours=COLOURS, max_text=MAX_TEXT)
    return html(page, headers={"Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'"})


async def pin(message: Message) -> dict[str, Any]:
    fields, _ = await form(message)
    note = Note(" ".join(fields.get("text", "").split()), fields.get("colour", ""))
    if not 0 < len(note.text) <= MAX_TEXT or note.colour not in COLOURS:
        raise HttpError(
            400, f"a note has 1 to {MAX_TEXT} characters and one of the colours {', '.join(COLOURS)}"
        )
    notes.append(note)
    await Board.group_send("board", {"note": render("note.html", note=note)})
    return redirect("/", status=303)


routing = [
    Board.as_route(path=r"^/$"),
    route("http.request", show, path=r"^/$", method=r"^GET$"),
    route("http.request", pin, path=r"^/$", method=r"^POST$"),
    static_files("/static/", PAGE),
    client_route(),
]

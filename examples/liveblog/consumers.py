"""Who sees which of the models, who may change them, and the two pages."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template
from typing import Any, ClassVar
from urllib.parse import parse_qs

import attrs
import trio

from triochan import Group, Message
from triochan.auth import USER_ID, http_session_user, login, logout
from triochan.binding.websockets import WebsocketBinding, WebsocketBindingWithMembers
from triochan.generic.websockets import WebsocketDemultiplexer
from triochan.http import html, redirect, text
from triochan.security import is_same_origin
from triochan.sessions import Session

from .models import IntegerValue, Post, database

PASSWORD = os.environ.get("LIVEBLOG_PASSWORD", "letmein")
PAGE = Path(__file__).parent / "page"
READERS = "liveblog.readers"
DESK = "liveblog.desk"


@attrs.frozen
class Editor:
    """Whoever knows the password."""

    id: str = "editor"
    is_authenticated: ClassVar[bool] = True
    """An AnonymousUser's is False."""


async def load_user(session: Session) -> Editor | None:
    """The application's ``user_loader``."""
    return Editor() if session.get(USER_ID) == Editor().id else None


# -- The bindings


class PostBinding(WebsocketBindingWithMembers):
    """Drafts are for the desk: when one is published, readers see a post come into being."""

    model = database.model(Post)
    stream = "posts"
    fields = ["headline", "text", "pinned", "published"]
    send_members = ["time"]

    @classmethod
    def group_names(cls, instance: Post) -> list[str]:
        return [DESK, READERS] if instance.published else [DESK]

    def has_permission(self, user: Any, action: str, pk: Any) -> bool:
        return bool(user.is_authenticated)


class IntegerValueBinding(WebsocketBinding):
    model = database.model(IntegerValue)
    stream = "values"
    fields = ["name", "value"]

    @classmethod
    def group_names(cls, instance: IntegerValue) -> list[str]:
        return [DESK, READERS]

    def has_permission(self, user: Any, action: str, pk: Any) -> bool:
        return bool(user.is_authenticated)


BINDINGS: tuple[type[WebsocketBinding], ...] = (PostBinding, IntegerValueBinding)


# -- The sockets


class Reader(WebsocketDemultiplexer):
    """The blog's page: it gets what is published, and says nothing."""

    groups = [READERS]
    count: ClassVar[int] = 0

    async def connect(self, message: Message, **kwargs: Any) -> None:
        for binding in BINDINGS:
            await binding.send_list(message, self.groups)
        Reader.count += 1
        await self.tell_count()

    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        Reader.count -= 1
        await self.tell_count()

    @classmethod
    async def tell_count(cls) -> None:
        await cls.group_send(DESK, "audience", {"readers": cls.count})


class Desk(WebsocketDemultiplexer):
    """The desk's page: posts and numbers, both ways, and how many readers there are."""

    http_user = True
    strict_ordering = True  # what one editor does is done in that order
    consumers = {"posts": PostBinding.consumer, "values": IntegerValueBinding.consumer}

    async def connect(self, message: Message, **kwargs: Any) -> None:
        if not message.user.is_authenticated:
            # A page does not learn why a handshake was refused, so this one is accepted and then closed.
            await message.reply_channel.send({"accept": True})
            await self.close(4401, "log in first")
            return
        await super().connect(message, **kwargs)
        await Group(DESK).add(message.reply_channel)
        for binding in BINDINGS:
            await binding.send_list(message, [DESK])
        await self.send("audience", {"readers": Reader.count})


# -- The pages

HEADERS = {
    # Nothing is fetched from elsewhere, and the page is in nobody's frame.
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


async def show_blog(message: Message) -> None:
    await send_page(message, "blog.html")


@http_session_user
async def show_desk(message: Message) -> None:
    """The desk; for those who have not given the password, the form for it, and what that form sends."""
    problem, status = "", 200
    if message["method"] == "POST":
        if not is_same_origin(message, message.application.allowed_origins):
            await message.reply_channel.send(text("This form is another site's.\n", 403))
            return
        fields = parse_qs(message["body"].decode(errors="replace"), max_num_fields=10)
        if hmac.compare_digest(first(fields.get("password", ())).encode(), PASSWORD.encode()):
            await login(message, Editor())
            await message.reply_channel.send(redirect("/desk"))
            return
        await trio.sleep(0.5)  # so that guessing takes its time
        problem, status = "That is not the password.", 422
    if message.user.is_authenticated:
        await send_page(message, "desk.html")
    else:
        await send_page(message, "enter.html", status, problem=escape(problem))


@http_session_user
async def log_out(message: Message) -> None:
    if message["method"] != "POST" or not is_same_origin(message, message.application.allowed_origins):
        await message.reply_channel.send(text("Log out by the button on the page.\n", 403))
        return
    await logout(message)
    # The desk's other windows look whether they are still logged in.
    await message.application.disconnect_user(Editor())
    await message.reply_channel.send(redirect("/"))


async def send_page(message: Message, name: str, status: int = 200, **values: str) -> None:
    page = Template(await trio.Path(PAGE / name).read_text("utf-8"))
    await message.reply_channel.send(html(page.substitute(values), status, HEADERS))


def first(values: Iterable[str]) -> str:
    return next(iter(values), "")

"""The pages, and the socket of the one that is for users."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import parse_qs

from triochan import Group, Message
from triochan.auth import USER_ID, http_session_user, login, logout
from triochan.generic.websockets import JsonWebsocketConsumer
from triochan.http import html, redirect, text
from triochan.security import is_same_origin
from triochan.sessions import Session

from .accounts import DATABASE, MAX_NAME, MAX_NOTE, Accounts, Refused, User

accounts = Accounts(DATABASE)

PAGE = Path(__file__).parent / "page"
HOME, ENTER = (Template((PAGE / name).read_text()) for name in ("home.html", "enter.html"))

HEADERS = {
    # Nothing is fetched from elsewhere, and the page is in nobody's frame.
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


async def load_user(session: Session) -> User | None:
    """The application's ``user_loader``."""
    id = session.get(USER_ID)
    return await accounts.get(id) if isinstance(id, int) else None


# -- The pages


@http_session_user
async def home(message: Message) -> None:
    if not message.user.is_authenticated:
        await message.reply_channel.send(redirect("/login"))
        return
    page = HOME.substitute(name=escape(message.user.name), initial=escape(message.user.name[0].upper()))
    await message.reply_channel.send(html(page, headers=HEADERS))


@http_session_user
async def log_in(message: Message) -> None:
    await _enter(message, "login", accounts.check)


@http_session_user
async def register(message: Message) -> None:
    await _enter(message, "register", accounts.register)


async def _enter(message: Message, what: str, get_user: Callable[[str, str], Awaitable[User]]) -> None:
    """The page with the form, and what the form sends."""
    if message["method"] != "POST":
        await message.reply_channel.send(html(_form(what), headers=HEADERS))
        return
    if not is_same_origin(message, message.application.allowed_origins):
        await message.reply_channel.send(text("This form is another site's.\n", 403))
        return
    fields = parse_qs(message["body"].decode(errors="replace"), keep_blank_values=True, max_num_fields=10)
    name, password = (fields.get(key, [""])[0] for key in ("name", "password"))
    try:
        user = await get_user(name, password)
    except Refused as error:
        await message.reply_channel.send(html(_form(what, name, str(error)), 422, HEADERS))
        return
    await login(message, user)
    await message.reply_channel.send(redirect("/"))


def _form(what: str, name: str = "", problem: str = "") -> str:
    new = what == "register"
    return ENTER.substitute(
        action=f"/{what}",
        title="Create an account" if new else "Log in",
        lead="A name and a password, and that is all." if new else "Good to see you again.",
        autocomplete="new-password" if new else "current-password",
        hint="At least 8 characters." if new else "",
        other="/login" if new else "/register",
        other_lead="You have an account?" if new else "No account yet?",
        other_title="Log in" if new else "Create one",
        max_name=MAX_NAME,
        name=escape(name),
        problem=escape(problem),
    )


@http_session_user
async def log_out(message: Message) -> None:
    if message["method"] != "POST" or not is_same_origin(message, message.application.allowed_origins):
        await message.reply_channel.send(text("Log out by the button on the page.\n", 403))
        return
    user = message.user
    await logout(message)
    if user.is_authenticated:
        # First the session, then the sockets: a socket that opens in between finds nobody, or is in the group.
        await message.application.disconnect_user(user)
    await message.reply_channel.send(redirect("/login"))


# -- The socket


class Live(JsonWebsocketConsumer):
    """The note that stands in all of a user's windows, and which handlers have run for whom."""

    http_user = True
    strict_ordering = True

    async def connect(self, message: Message, **kwargs: Any) -> None:
        user = message.user
        if not user.is_authenticated:
            # A page does not learn why a handshake was refused, so this one is accepted and then closed.
            await message.reply_channel.send({"accept": True})
            await self.close(4401, "log in first")
            return
        await Group(windows(user)).add(message.reply_channel)
        await self.send({"type": "note", "note": await accounts.note(user)})
        await self.tell("connect")

    async def receive(self, content: Any, **kwargs: Any) -> None:
        note = content.get("note") if isinstance(content, dict) else None
        if not isinstance(note, str) or len(note) > MAX_NOTE:
            await self.send({"type": "error", "error": f"a note is a text of at most {MAX_NOTE} characters"})
            return
        user = self.message.user
        await accounts.set_note(user, note)
        await self.group_send(windows(user), {"type": "note", "note": note, "from": content.get("from")})
        await self.tell("receive")

    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        if message.user.is_authenticated:
            await Group(windows(message.user)).discard(message.reply_channel)
            await self.tell("disconnect")

    async def tell(self, handler: str) -> None:
        """Tell all windows of the user that a handler has run, who it saw, and how many windows there are."""
        user = self.message.user
        count = len(await Group(windows(user)).members())
        await self.group_send(
            windows(user), {"type": "handler", "handler": handler, "user": user.name, "windows": count}
        )


def windows(user: User) -> str:
    """The group of a user's open windows."""
    return f"windows.{user.id}"

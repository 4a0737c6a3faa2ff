"""Mistakes that type checkers find because triochan is typed, each marked with what mypy and pyright call it.

``tests/real/test_types.py`` holds that both find all of these, and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from guestbook import Account, Count, Entry, Leave, Said, Say, Services, functions, log_in

from triochan import Application, Channel, Group, Message, Settings, route
from triochan.auth import http_session_user
from triochan.binding.websockets import WebsocketBinding
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from triochan.http import form, json_body, text
from triochan.middleware import Next
from triochan.security import allowed_hosts_only
from triochan.test import Client


class Room(JsonWebsocketConsumer[Say, Said]):
    State = Count

    async def connect(self, message: Message[Account], room: str, **kwargs: Any) -> None:
        message.reply_channel.send({})  # wrong: unused-coroutine, reportUnusedCoroutine
        await message.reply_channel.send("hello")  # wrong: arg-type, reportArgumentType
        message.connection.closes()  # wrong: attr-defined, reportAttributeAccessIssue
        message.application.stat  # wrong: attr-defined, reportAttributeAccessIssue
        message.user.nam  # wrong: attr-defined, reportAttributeAccessIssue
        message.http_session.flush()  # wrong: unused-coroutine, reportUnusedCoroutine
        message.channel_session[1] = 2  # wrong: index, reportArgumentType

    async def receive(self, content: Say, room: str, **kwargs: Any) -> None:
        self.send(Said("", content.text, 1))  # wrong: unused-coroutine, reportUnusedCoroutine
        await self.send(content)  # wrong: arg-type, reportArgumentType
        await self.group_send("room", content)  # wrong: arg-type, reportArgumentType
        self.group_send("room", Said("", "", 1))  # wrong: unused-coroutine, reportUnusedCoroutine
        self.connection.state.mesages += 1  # wrong: attr-defined, reportAttributeAccessIssue
        self.connection.state.messages = "1"  # wrong: assignment, reportAttributeAccessIssue
        self.connection.start_soon(self.later, "1")  # wrong: arg-type, reportArgumentType
        self.connection.send("text")  # wrong: unused-coroutine, reportUnusedCoroutine
        content.txt  # wrong: attr-defined, reportAttributeAccessIssue

    async def later(self, seconds: float) -> None: ...


class WrongContent(JsonWebsocketConsumer[Say, Said]):
    async def receive(self, content: Leave, **kwargs: Any) -> None: ...  # wrong: override, -


class NotAsync(WebsocketConsumer):
    def connect(self, message: Message, **kwargs: Any) -> None: ...  # wrong: override, reportIncompatibleMethodOverride

    def connection_groups(self, room: str, **kwargs: Any) -> int:  # wrong: override, reportIncompatibleMethodOverride
        return 1

    strict_ordering = "yes"  # wrong: assignment, reportAssignmentType
    overflow = "drop"  # wrong: assignment, reportAssignmentType


class Streams(WebsocketDemultiplexer):
    mapping = {"log": 1}  # wrong: dict-item, reportAssignmentType
    consumers = {"say": 1}  # wrong: dict-item, reportAssignmentType


class EntryBinding(WebsocketBinding):
    model = Entry  # wrong: assignment, reportAssignmentType

    @classmethod
    def group_names(cls, instance: Entry) -> int:  # wrong: override, reportIncompatibleMethodOverride
        return 1


def plain(message: Message) -> None: ...


@allowed_hosts_only
async def decorated(message: Message, room: str) -> None: ...


async def handler(message: Message) -> dict[str, Any]:
    form(message).fields  # wrong: attr-defined, reportAttributeAccessIssue
    json_body(message, Entry).title  # wrong: attr-defined, reportAttributeAccessIssue
    Channel("work").send({})  # wrong: unused-coroutine, reportUnusedCoroutine
    Group("work").send({})  # wrong: unused-coroutine, reportUnusedCoroutine
    await Group("work").add(1)  # wrong: arg-type, reportArgumentType
    await decorated(message, 1)  # wrong: arg-type, reportArgumentType
    await log_in("message")  # wrong: arg-type, reportArgumentType
    await functions(message)  # wrong: call-arg, reportCallIssue
    return text(b"bytes")  # wrong: arg-type, reportArgumentType


async def wrong_middleware(message: Message) -> object:
    return None


def plain_middleware(message: Message, handler: Next) -> object:
    return None


async def no_loader(name: str) -> None: ...


@asynccontextmanager
async def wrong_lifespan(application: Application[Count]) -> AsyncGenerator[None]:
    application.state.swept  # wrong: attr-defined, reportAttributeAccessIssue
    yield


async def forgetful_middleware(message: Message, handler: Next) -> object:
    handler(message)  # wrong: unused-coroutine, reportUnusedCoroutine
    return None


route("http.request", plain)  # wrong: arg-type, reportArgumentType
route("http.request", handler, path=1)  # wrong: arg-type, reportArgumentType
http_session_user(plain)  # wrong: type-var, reportArgumentType
Application([], middleware=[wrong_middleware])  # wrong: list-item, reportArgumentType
Application([], middleware=[plain_middleware])  # wrong: list-item, reportArgumentType
Application([], state=Services(), lifespan=wrong_lifespan)  # wrong: misc, reportArgumentType
Application([], user_loader=no_loader)  # wrong: arg-type, reportArgumentType
Application([], cookie_same_site="lax")  # wrong: arg-type, reportArgumentType
Settings(max_message_sise=1)  # wrong: call-arg, reportCallIssue


async def test_a_client() -> None:
    async with Client([], settings=Settings()) as client:
        client.get("/").status  # wrong: attr-defined, reportAttributeAccessIssue
        async with client.websocket("/") as socket:
            socket.send("text")  # wrong: unused-coroutine, reportUnusedCoroutine
            await socket.send(1)  # wrong: arg-type, reportArgumentType

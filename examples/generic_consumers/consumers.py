"""What ``routing.py`` routes to."""

from typing import Any

from triochan import Message
from triochan.generic.websockets import WebsocketConsumer


class ChatServer(WebsocketConsumer):
    """Everybody below ``/chat/`` hears what anybody there says."""

    groups = ["chat"]

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.group_send("chat", text=text, bytes=bytes)


async def ws_connect(message: Message) -> None:
    await message.reply_channel.send({"accept": True})
    await message.reply_channel.send({"text": "Hello"})

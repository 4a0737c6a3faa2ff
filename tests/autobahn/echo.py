"""What the fuzzing client talks to: sends every message back, in the order of arrival."""

from __future__ import annotations

from typing import Any

from triochan import route_class
from triochan.generic.websockets import WebsocketConsumer


class Echo(WebsocketConsumer):
    strict_ordering = True
    compression = True

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.send(text=text, bytes=bytes)


routing = [route_class(Echo)]

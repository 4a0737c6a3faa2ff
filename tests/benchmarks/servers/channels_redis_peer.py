"""Channels 4 in several processes: groups by channels_redis' pub/sub layer, jobs by its queues and Channels' worker."""

from __future__ import annotations

import asyncio
from typing import Any

import django
import uvloop
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from channels.worker import Worker
from django.conf import settings
from django.urls import path

from benchmarks.servers import asgi, common

options = common.start()
# Without a time-out: redis-py's of 5 s would end a worker that waits for its next job, for as long.
hosts = {"hosts": [{"address": options.engine, "socket_timeout": None}], "prefix": options.prefix}
settings.configure(
    CHANNEL_LAYERS={
        "default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": hosts},
        # The pub/sub layer has no queues that workers of several processes could share.
        "jobs": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": hosts},
    }
)
django.setup()
jobs = get_channel_layer("jobs")
done = common.Done(options.done)


class Room(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("room", self.channel_name)

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["message"])


class Other(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.channel_layer.group_add("other", self.channel_name)
        await self.accept()


class Send(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("room", {"type": "room.message", "message": text_data})


class Job(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await jobs.send("jobs", {"type": "job.run", "text": text_data})


class Work(AsyncConsumer):
    async def job_run(self, event: dict[str, Any]) -> None:
        done.report(event["text"])


application = ProtocolTypeRouter(
    {
        "websocket": URLRouter(
            [
                path("group", Room.as_asgi()),
                path("other", Other.as_asgi()),
                path("send", Send.as_asgi()),
                path("job", Job.as_asgi()),
            ]
        ),
        "channel": ChannelNameRouter({"jobs": Work.as_asgi()}),
    }
)

if __name__ == "__main__":
    if options.done:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        common.report(0)
        Worker(application, ["jobs"], jobs).run()
    else:
        asgi.serve(application, options)

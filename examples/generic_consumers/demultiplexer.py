"""Several streams over one WebSocket, each sent on to a channel, and consumers of these channels."""

# mypy: allow-untyped-defs
from triochan.generic.websockets import WebsocketDemultiplexer


class Demultiplexer(WebsocketDemultiplexer):
    mapping = {
        "intval": "binding.intval",
        "stats": "internal.stats",
    }


async def intval(message):
    content = WebsocketDemultiplexer.encode("intval", {"value": message["value"] + 1})
    await message.reply_channel.send(content)


async def stats(message):
    content = WebsocketDemultiplexer.encode("stats", {"keys": sorted(message.keys())})
    await message.reply_channel.send(content)

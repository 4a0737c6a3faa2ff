"""A consumer of a named channel."""

# mypy: allow-untyped-defs
from triochan.generic import BaseConsumer


class MyConsumer(BaseConsumer):
    method_mapping = {
        "channel.name.here": "method_name",
    }

    async def method_name(self, message, **kwargs):
        pass

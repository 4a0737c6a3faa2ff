"""A WebSocket that echoes JSON."""

# mypy: allow-untyped-defs
# ruff: noqa: PIE790
from triochan.generic.websockets import JsonWebsocketConsumer


class MyConsumer(JsonWebsocketConsumer):
    # Set to True if you want them, else leave out
    strict_ordering = False
    slight_ordering = False

    def connection_groups(self, **kwargs):
        """
        Called to return the list of groups to automatically add/remove
        this connection to/from.
        """
        return ["test"]

    async def connect(self, message, **kwargs):
        """
        Perform things on connection start
        """
        pass

    async def receive(self, content, **kwargs):
        """
        Called when a message is received with decoded JSON content
        """
        # Simple echo
        await self.send(content)

    async def disconnect(self, message, **kwargs):
        """
        Perform things on connection close
        """
        pass

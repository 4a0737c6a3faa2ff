"""A WebSocket that echoes."""

# mypy: allow-untyped-defs
# ruff: noqa: PIE790
from triochan.generic.websockets import WebsocketConsumer


class MyConsumer(WebsocketConsumer):
    # Set to True to automatically port users from HTTP cookies
    # (you don't need channel_session_user, this implies it)
    http_user = True

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

    async def receive(self, text=None, bytes=None, **kwargs):
        """
        Called when a message is received with either text or bytes
        filled out.
        """
        # Simple echo
        await self.send(text=text, bytes=bytes)

    async def disconnect(self, message, **kwargs):
        """
        Perform things on connection close
        """
        pass

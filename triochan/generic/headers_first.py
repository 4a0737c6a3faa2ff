"""Headers in a socket's first message: what a browser's page can't put into the handshake, such as a token."""

from __future__ import annotations

from typing import Any, cast

import attrs
import trio

from ..exceptions import ImproperlyConfigured
from ..layers import Endpoint
from ..message import LiveConnection, Message
from ..routing import name_of
from .consumers import JsonWebsocketConsumer


class HeadersFirst(JsonWebsocketConsumer):
    """A JSON consumer whose client says ``{"headers": {name: value}}`` before anything else.

    The browser client's option ``headers`` sends that on every connection (docs/client.md); the idea is that of
    graphql-ws's ConnectionInit message. :meth:`receive_headers` hears of it; until that has returned, :meth:`receive`
    is called with nothing, in every mode of ordering, and the connection is in none of its ``groups``. ``connect`` and
    ``disconnect`` are called as ever: what is not for everybody is sent by :meth:`receive_headers` and later. With a
    demultiplexer it is written first, and the same goes for its streams: their ``connect`` belongs to the handshake::

        class Live(HeadersFirst, WebsocketDemultiplexer):
            async def receive_headers(self, headers, **kwargs):
                ...

    A first message of another shape closes the socket with 4400, none in ``headers_timeout`` with 4408 (after which the
    browser client comes back), text that is not JSON with 1007, a binary message with 1003.

    Attributes:
        headers_timeout: in seconds, from ``connect`` on; ``math.inf`` for no limit.
    """

    headers_timeout: float = 10

    @classmethod
    def check_definition(cls) -> None:
        """Find what is wrong with the class; called when it is routed to.

        Raises:
            ImproperlyConfigured: ``headers_timeout`` is no number above 0.
        """
        super().check_definition()
        seconds: object = cls.headers_timeout
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds > 0:
            raise ImproperlyConfigured(
                f"{name_of(cls)}.headers_timeout is a number of seconds above 0, not {seconds!r:.100}"
            )

    async def receive_headers(self, headers: dict[str, str], /, *args: Any, **kwargs: Any) -> None:
        """The first message has come.

        :meth:`close` refuses the client, as in ``await self.close(4401, "log in again")``: nothing that it has sent
        behind is handled. What is to be kept goes into ``self.connection.state``.

        Args:
            headers: lower-case names to values, the client's word.
        """

    async def raw_connect(self, message: Message, **kwargs: Any) -> None:
        connection = _live(message)
        await self.connect(message, **kwargs)
        if not connection.closing:
            connection.start_soon(self._wait_for_headers, connection, _first(message))

    async def raw_receive(self, message: Message, **kwargs: Any) -> None:
        first = _first(message)
        if message.own.get("order") == 1:
            try:
                first.accepted = await self._hear(message, kwargs)
            finally:
                first.settled.set()
            return
        await first.settled.wait()
        if first.accepted:
            await super().raw_receive(message, **kwargs)

    async def _hear(self, message: Message, kwargs: dict[str, Any]) -> bool:
        """The first message: whether the client may go on."""
        text = message.own.get("text")
        if text is None:
            await self._refuse_binary()
            return False
        try:
            content = self.decode_json(text)
        except (ValueError, RecursionError) as error:
            await self._refuse_text(message, error)
            return False
        headers = content.get("headers") if isinstance(content, dict) else None
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            await self.close(4400, 'the first message is {"headers": {name: text}}')
            return False
        await self.receive_headers({str(name).lower(): value for name, value in headers.items()}, **kwargs)
        if _live(message).closing:
            return False
        await self._join(tuple(self._group_names(kwargs)), message, kwargs)
        return True

    async def _wait_for_headers(self, connection: LiveConnection, first: _First) -> None:
        with trio.move_on_after(self.headers_timeout):
            await first.settled.wait()
            return
        connection.close(4408, f"no headers came in {self.headers_timeout:g} s")


@attrs.define(eq=False)
class _First:
    """What has become of a connection's first message."""

    accepted: bool = False
    settled: trio.Event = attrs.field(factory=trio.Event)


def _live(message: Message) -> LiveConnection:
    if message.connection is None:
        raise RuntimeError(
            "a HeadersFirst consumer takes messages of live connections only: this one has none"
        )
    return message.connection


def _first(message: Message) -> _First:
    return cast(Endpoint, _live(message)).local.of(_First)

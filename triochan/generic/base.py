"""The base of class-based consumers: one instance a message, dispatched by the channel's name."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, ClassVar

from .. import auth, sessions
from ..message import Message
from ..routing import route_class

Handler = Callable[..., Awaitable[object]]

DECORATING: Mapping[str, Callable[[Handler], Handler]] = {
    "http_user_and_session": auth.channel_and_http_session_user_from_http,
    "http_user": auth.channel_session_user_from_http,
    "channel_session_user": auth.channel_session_user,
    "channel_session": sessions.channel_session,
}
"""Class attributes for which ``get_handler`` wraps the handler in a decorator; each implies those below it."""


class BaseConsumer:
    """A consumer as a class: ``method_mapping`` names the method for each channel.

    An instance is made for each message, so what is stored on ``self`` is that message's own.

    Attributes:
        method_mapping: channel name to method name; the methods are ``async def method(self, message, **kwargs)``.
        message: the message that the instance is for.
        kwargs: the routing's named groups.
        channel_session: give every handler ``message.channel_session`` (:func:`triochan.sessions.channel_session`).
        channel_session_user: and ``message.user`` (:func:`triochan.auth.channel_session_user`).
        http_user: the user of the HTTP session (:func:`triochan.auth.channel_session_user_from_http`).
        http_user_and_session: and that session in every handler
            (:func:`triochan.auth.channel_and_http_session_user_from_http`).

    With any of these four, handshakes from other sites are refused (:mod:`triochan.security`). They are set in the
    class body, or by ``as_route``.
    """

    method_mapping: ClassVar[Mapping[str, str]] = {}
    channel_session: ClassVar[bool] = False
    channel_session_user: ClassVar[bool] = False
    http_user: ClassVar[bool] = False
    http_user_and_session: ClassVar[bool] = False

    _decorate: ClassVar[Callable[[Handler], Handler] | None] = None
    _decorated: ClassVar[dict[Any, Handler]] = {}
    straight: ClassVar[bool] = True
    """Nothing stands between the routing and the method (see :meth:`begin`)."""

    def __init__(self, message: Message, **kwargs: Any) -> None:
        self.message = message
        self.kwargs = kwargs

    @classmethod
    def channel_names(cls) -> set[str]:
        """The channels that the consumer listens on; the same for as long as the process runs."""
        return set(cls.method_mapping)

    @classmethod
    def as_route(cls, attrs: Mapping[str, Any] | None = None, **filters: str) -> route_class:
        """A route to this class, or to a subclass of it with the class attributes ``attrs``.

        Args:
            attrs: e.g. ``{"strict_ordering": True}``.
            filters: as :class:`triochan.route` takes them.
        """
        if attrs is not None and not isinstance(attrs, Mapping):
            raise TypeError(f"attrs is a mapping of class attributes, not {attrs!r}")
        consumer = type(cls.__name__, (cls,), {"__module__": cls.__module__, **attrs}) if attrs else cls
        return route_class(consumer, **filters)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        overridable = ("dispatch", "get_handler")
        cls._decorated = {}
        cls._decorate = next((each for name, each in DECORATING.items() if getattr(cls, name)), None)
        cls.straight = cls._decorate is None and all(
            getattr(getattr(cls, name), "__module__", "").startswith("triochan.generic.")
            for name in overridable
        )

    @classmethod
    def begin(cls, message: Message, kwargs: dict[str, Any]) -> Coroutine[Any, Any, object]:
        """The coroutine that handles ``message``, with an instance made for it: what the server runs.

        Where nothing of :meth:`dispatch` and :meth:`get_handler` is overridden or decorated, it is the method's own:
        the calls between cost a tenth of a small message's time.
        """
        consumer = cls(message, **kwargs)
        if cls.straight:
            return getattr(consumer, cls.method_mapping[message.channel.name])(message, **kwargs)  # type: ignore[no-any-return]
        return consumer.dispatch(message, **kwargs)

    def get_handler(self, message: Message, **kwargs: Any) -> Handler:
        """The method for the message's channel, in its decorators; the place to add more of them."""
        name = self.method_mapping[message.channel.name]
        cls = type(self)
        decorate = cls._decorate
        if decorate is None:
            return getattr(self, name)  # type: ignore[no-any-return]
        method = getattr(cls, name)
        if not isinstance(method, types.FunctionType):
            return decorate(getattr(self, name))
        decorated = cls._decorated.get(method)  # once a class, not once a message
        if decorated is None:
            decorated = cls._decorated[method] = decorate(method)
        return types.MethodType(decorated, self)

    async def dispatch(self, message: Message, **kwargs: Any) -> None:
        """Handle the message. No checkpoint of its own."""
        await self.get_handler(message, **kwargs)(message, **kwargs)

    @property
    def connection(self) -> Any:
        """The live connection behind the message, None for one that came from no socket."""
        return self.message.connection

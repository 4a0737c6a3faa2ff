"""The base of class-based consumers: one instance a message, dispatched by the channel's name."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, ClassVar

from .. import auth, sessions
from ..exceptions import ImproperlyConfigured
from ..message import Message
from ..routing import name_of, route_class

Handler = Callable[..., Awaitable[object]]
Begin = Callable[[Message, dict[str, Any]], Coroutine[Any, Any, object]]
"""Makes the coroutine that handles a message with the routing's keyword arguments."""

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

    With any of these four, handshakes from other sites are refused (:mod:`triochan.security`).
    """

    method_mapping: ClassVar[Mapping[str, str]] = {}
    channel_session: ClassVar[bool] = False
    channel_session_user: ClassVar[bool] = False
    http_user: ClassVar[bool] = False
    http_user_and_session: ClassVar[bool] = False

    _decorated: ClassVar[dict[Any, Handler]]

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

    @classmethod
    def begin_on(cls, channel: str) -> Begin | None:
        """What begins to handle a message on ``channel``: an instance is made, and dispatched to.

        Where nothing of :meth:`dispatch` and :meth:`get_handler` is overridden, decorated or patched, and no session
        or user is asked for, it is the method itself: the calls between cost a tenth of a small message's time. That
        is decided by identity, for each connection anew.
        """
        if cls._is_straight():
            name = cls.method_mapping[channel]

            def straight(message: Message, kwargs: dict[str, Any]) -> Coroutine[Any, Any, object]:
                coroutine: Coroutine[Any, Any, object] = getattr(cls(message, **kwargs), name)(
                    message, **kwargs
                )
                return coroutine

            return straight

        def begin(message: Message, kwargs: dict[str, Any]) -> Coroutine[Any, Any, object]:
            return cls(message, **kwargs).dispatch(message, **kwargs)

        return begin

    @classmethod
    def _is_straight(cls) -> bool:
        """Nothing of the program's stands between the routing and the method."""
        dispatch, get_handler, init = _OWN
        return (
            cls.dispatch is dispatch
            and cls.get_handler is get_handler
            and cls.__init__ is init  # which may set any of these on the instance
            and not (
                cls.http_user_and_session or cls.http_user or cls.channel_session_user or cls.channel_session
            )
        )

    @classmethod
    def check_definition(cls) -> None:
        """Find what is wrong with the class; called when it is routed to.

        Raises:
            ImproperlyConfigured: an attribute that is to be True or False is something else.
        """
        for name in DECORATING:
            value = getattr(cls, name)
            if not isinstance(value, bool):  # a "no" would be taken for a yes
                raise ImproperlyConfigured(f"{name_of(cls)}.{name} is True or False, not {value!r:.100}")

    def get_handler(self, message: Message, **kwargs: Any) -> Handler:
        """The method for the message's channel, in its decorators; the place to add more of them."""
        name = self.method_mapping[message.channel.name]
        decorate = next((each for attribute, each in DECORATING.items() if getattr(self, attribute)), None)
        if decorate is None:
            return getattr(self, name)  # type: ignore[no-any-return]
        cls = type(self)
        method = getattr(cls, name)
        if not isinstance(method, types.FunctionType) or name in self.__dict__:
            return decorate(getattr(self, name))
        # Decorated once a class, not once a message.
        made: dict[Any, Handler] | None = cls.__dict__.get("_decorated")
        if made is None:
            made = {}
            cls._decorated = made
        decorated = made.get((method, decorate))
        if decorated is None:
            decorated = made[method, decorate] = decorate(method)
        return types.MethodType(decorated, self)

    async def dispatch(self, message: Message, **kwargs: Any) -> None:
        """Handle the message. No checkpoint of its own."""
        await self.get_handler(message, **kwargs)(message, **kwargs)

    @property
    def connection(self) -> Any:
        """The live connection behind the message, None for one that came from no socket."""
        return self.message.connection


# As they are written here: the class itself may be patched.
_OWN = (BaseConsumer.dispatch, BaseConsumer.get_handler, BaseConsumer.__init__)

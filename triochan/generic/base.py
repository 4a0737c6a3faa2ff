"""The base of class-based consumers: one instance a message, dispatched by the channel's name."""

from __future__ import annotations

import dis
import functools
import inspect
import math
import types
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, TypeVar, overload

import trio

from .. import auth, sessions
from ..exceptions import ImproperlyConfigured
from ..handlers import Begin, awaited, enclosed, share_of_time
from ..message import LiveConnection, Message
from ..routing import LAYER_GAP, name_of, route_class

Handler = Callable[..., Awaitable[object]]

DISCONNECT = "websocket.disconnect"
DECORATING: Mapping[str, Callable[[Handler], Handler]] = {
    "http_user_and_session": auth.channel_and_http_session_user_from_http,
    "http_user": auth.channel_session_user_from_http,
    "channel_session_user": auth.channel_session_user,
    "channel_session": sessions.channel_session,
}
"""Class attributes for which ``get_handler`` wraps the handler in a decorator; each implies those below it."""


if TYPE_CHECKING:
    group_method = classmethod
else:

    class group_method(classmethod):
        """A class method that sends to a group; called on an instance, it takes ``but_me=True``."""

        def __init__(self, function):
            super().__init__(function)

            # Made once, not for each send: what wraps() copies takes longer than a member of the group.
            @functools.wraps(function)
            def call(instance, *args, but_me=False, **kwargs):
                if but_me:
                    about = getattr(instance, "message", instance)  # a multiplexer has the channel itself
                    kwargs["exclude"] = about.reply_channel
                return function(type(instance), *args, **kwargs)

            self._call = call

        def __get__(self, instance, owner=None):
            return (
                types.MethodType(self.__func__, owner)
                if instance is None
                else types.MethodType(self._call, instance)
            )


def refuse_but_me() -> NoReturn:
    """``but_me`` came to a group method that was called on a class, which is nobody's.

    Raises:
        TypeError: always.
    """
    raise TypeError("but_me=True goes with self.group_send(…); on a class, say exclude=channel")


if TYPE_CHECKING:
    S = TypeVar("S")
    S_co = TypeVar("S_co", covariant=True)

    class _HasState(Protocol[S_co]):
        @property
        def State(self) -> type[S_co]: ...

    class _Connection:
        """``self.connection``, whose ``state`` is an object of the class that ``State = …`` in the consumer names."""

        @overload
        def __get__(self, consumer: _HasState[S], owner: object) -> LiveConnection[S]: ...
        @overload
        def __get__(self, consumer: BaseConsumer, owner: object) -> LiveConnection: ...
        def __get__(self, consumer: object, owner: object) -> object: ...


def _missing(self: BaseConsumer, name: str) -> NoReturn:
    raise AttributeError(
        f"{type(self).__name__!r} object has no attribute {name!r}. {self._about_missing(name)}"
    )


def _puts_on_self(cls: type) -> bool:
    """Whether a method of the class itself has ``self.name = …``; not of triochan's own classes."""
    if str(getattr(cls, "__module__", "")).startswith(f"{__package__.partition('.')[0]}."):
        return False
    for value in vars(cls).values():
        code = getattr(inspect.unwrap(value) if callable(value) else None, "__code__", None)
        if code is None or not code.co_argcount:
            continue
        own = code.co_varnames[0]
        before = None
        for step in dis.get_instructions(code):
            if step.opname == "STORE_ATTR" and before is not None and before.opname.startswith("LOAD_FAST"):
                loaded = before.argval  # CPython 3.13 loads two at once
                if (loaded[-1] if isinstance(loaded, tuple) else loaded) == own:
                    return True
            before = step
    return False


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
        durable: the messages of its named channels are acknowledged (:func:`triochan.decorators.durable`).

    With any of the first four, handshakes from other sites are refused (:mod:`triochan.security`).
    """

    method_mapping: ClassVar[Mapping[str, str]] = {}
    channel_session: ClassVar[bool] = False
    channel_session_user: ClassVar[bool] = False
    http_user: ClassVar[bool] = False
    http_user_and_session: ClassVar[bool] = False
    durable: ClassVar[bool] = False

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
        is decided by identity, for each connection anew, and for each message once more as far as methods go.
        """
        if channel == DISCONNECT:
            return cls._ended
        if channel in cls.method_mapping and cls._is_straight():
            name = cls.method_mapping[channel]
            dispatch, get_handler = cls.dispatch, cls.get_handler

            def straight(message: Message, kwargs: dict[str, Any]) -> Coroutine[Any, Any, object]:
                if cls.dispatch is not dispatch or cls.get_handler is not get_handler:  # patched since
                    return cls._dispatched(message, kwargs)
                # Most routes have no named groups: that spares the dicts.
                made = (
                    getattr(cls(message, **kwargs), name)(message, **kwargs)
                    if kwargs
                    else getattr(cls(message), name)(message)
                )
                return made if made.__class__ is types.CoroutineType else as_coroutine(made, cls, name)

            return straight
        return cls._dispatched

    @classmethod
    def _dispatched(cls, message: Message, kwargs: dict[str, Any]) -> Coroutine[Any, Any, object]:
        return as_coroutine(cls(message, **kwargs).dispatch(message, **kwargs), cls, "dispatch")

    @classmethod
    async def _ended(cls, message: Message, kwargs: dict[str, Any]) -> None:
        await cls(message, **kwargs).dispatch_disconnect(message, **kwargs)

    @classmethod
    def _is_straight(cls, *, sessions: bool = False) -> bool:
        """Nothing of the program's stands between the routing and the method.

        Args:
            sessions: also where a session or a user is asked for.
        """
        dispatch, get_handler, init = _OWN
        return (
            cls.dispatch is dispatch
            and cls.get_handler is get_handler
            # Any of these may set them on the instance.
            and cls.__init__ is init
            and cls.__new__ is object.__new__
            and cls.__getattribute__ is object.__getattribute__
            and type(cls).__call__ is type.__call__
            # What DECORATING names, written out: this is asked four times for each connection.
            and (
                sessions
                or not (
                    cls.channel_session
                    or cls.channel_session_user
                    or cls.http_user
                    or cls.http_user_and_session
                )
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

    @classmethod
    def method_on(cls, channel: str) -> str | None:
        """The name of the method for what comes on ``channel``."""
        return "layer_gap" if channel == LAYER_GAP else cls.method_mapping.get(channel)

    def get_handler(self, message: Message, **kwargs: Any) -> Handler:
        """The method for the message's channel, in its decorators; the place to add more of them."""
        name = self.method_on(message.channel.name)
        if name is None:
            raise ImproperlyConfigured(
                f"{name_of(type(self))} was routed to on {message.channel.name!r}, and its method_mapping has "
                f"{', '.join(map(repr, self.method_mapping)) or 'no channel at all'}"
            )
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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Not in all classes: with a __getattr__, Python looks up every attribute of self the slow way, which was a
        # twentieth of an echo. Where nothing is put on self, the log says beside the error what this would.
        if not hasattr(cls, "__getattr__") and _puts_on_self(cls):
            cls.__getattr__ = _missing  # type: ignore[attr-defined]

    @classmethod
    def _about_missing(cls, name: str) -> str:
        """What an AttributeError, or the log beside it, says: an instance has no ``name``."""
        return (
            f"An instance of {cls.__qualname__} is for one message: what another handler has put on self is gone. Keep "
            f"it in self.connection.state.{name}, which lives as long as the socket"
        )

    async def dispatch_disconnect(self, message: Message, **kwargs: Any) -> None:
        """Handle ``websocket.disconnect``: :meth:`dispatch`, and the method itself where that does not come to it.

        It is owed to every connection, and what stands before it (a decorator, :meth:`get_handler`, a store) may fail
        when the connection ends, or take all the time there is: half of that is the method's. What was raised is
        raised behind it.
        """
        if self._comes_to_disconnect():
            await getattr(self, self.method_mapping[DISCONNECT])(message, **kwargs)
        else:
            await self._see_off(lambda: self.dispatch(message, **kwargs), message, kwargs)

    def _comes_to_disconnect(self) -> bool:
        """Nothing of the program's stands before the method for ``websocket.disconnect``, and nothing before it could
        fail."""
        return False

    async def _see_off(
        self, handle: Callable[[], Awaitable[object]], message: Message, kwargs: dict[str, Any]
    ) -> None:
        name = self._owed_at_the_end()
        if name is None:
            await handle()
            return
        own = getattr(self, name)
        begun = False
        until = share_of_time()
        with trio.CancelScope(deadline=until) as scope:

            async def tracked(*args: Any, **kwargs: Any) -> Any:
                nonlocal begun
                begun = True
                scope.deadline = math.inf
                return await own(*args, **kwargs)

            before = self.__dict__.get(name)
            self.__dict__[name] = tracked
            errors: list[Exception] = []
            try:
                # What it leaves open is not this scope's child.
                await enclosed(awaited(handle()), copy_context())
            except Exception as error:
                if begun:
                    raise
                errors.append(error)
            finally:
                del self.__dict__[name]  # no circle is left for the garbage collector
                if before is not None:
                    self.__dict__[name] = before
        if scope.cancelled_caught:
            errors.append(
                trio.TooSlowError(f"what stands before {name_of(type(self))}.{name} took half of its time")
            )
        if errors:
            try:
                await own(message, **kwargs)
            except Exception as error:  # noqa: BLE001 - raised with the others
                errors.append(error)
            try:
                raise_all(errors, f"before and in {name_of(type(self))}.{name}")
            finally:
                errors.clear()  # no circle: each was raised through here

    def _owed_at_the_end(self) -> str | None:
        """The method that has to be called for ``websocket.disconnect``, whatever stands before it; None where there is
        none, or nothing before it could fail."""
        return self.method_mapping.get(DISCONNECT)

    if TYPE_CHECKING:
        connection: _Connection = _Connection()
    else:

        @property
        def connection(self):
            """The live connection behind the message, None for one that came from no socket."""
            return self.message.connection


def as_coroutine(made: Any, cls: type[BaseConsumer], name: str) -> Coroutine[Any, Any, object]:
    """What a handler gave when it was called, as the coroutine that is begun.

    Raises:
        TypeError: it gave nothing that can be awaited.
    """
    if made.__class__ is types.CoroutineType:
        return made
    if not inspect.isawaitable(made):
        raise TypeError(
            f"{name_of(cls)}.{name} gave {made!r:.100}, which can't be used in 'await' expression; it has to be "
            "'async def', in its decorators too: one of them may not return what it calls"
        )
    return awaited(made)


def raise_all(errors: list[Exception], where: str) -> None:
    """Raise the one error, or a group of them; nothing where there is none.

    Args:
        where: for the group's message.
    """
    raised = errors.copy()
    errors.clear()  # the caller's frame is in the tracebacks: no circle is left for the garbage collector
    try:
        if len(raised) == 1:
            raise raised[0]
        if raised:
            raise ExceptionGroup(f"several errors {where}", raised)
    finally:
        del raised


# As they are written here: the class itself may be patched.
_OWN = (BaseConsumer.dispatch, BaseConsumer.get_handler, BaseConsumer.__init__)

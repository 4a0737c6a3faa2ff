"""The base of bindings: which groups see an instance, what they are told of it, and what clients may do to it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar

from ..auth import AnonymousUser, channel_session_user
from ..exceptions import ImproperlyConfigured, InvalidContent
from ..message import Message, check_name
from ..routing import name_of
from ..sessions import channel_session
from ..typed import HasConverter
from ..typed.mistakes import MAX_DETAILS, said
from .source import ACTIONS, CREATE, DELETE, UPDATE, ChangeRefused, Field, Source

Handler = Callable[..., Awaitable[None]]

ALL = "__all__"
INVALID = "invalid data"
logger = logging.getLogger("triochan.binding")


class Binding:
    """A model's changes, out to groups and in from clients; :class:`triochan.binding.websockets.WebsocketBinding`
    speaks to WebSockets (Channels 1: "Data Binding").

    Out: whenever an instance is created, updated or deleted, the groups that :meth:`group_names` gives before the
    change are compared with those after it. Groups that are new to the instance are sent ``create``, those that see it
    no longer ``delete``, the others ``update``.

    In: :attr:`consumer` takes messages that ask for a change. What is wrong with one, or not permitted, is answered
    with an error, and nothing is changed.

    For the outbound side implement :meth:`group_names`, :meth:`serialize` and :meth:`encode`; for the inbound side
    :meth:`has_permission`, :meth:`deserialize` and :meth:`refuse`. The class is at work as soon as it is made.

    Attributes:
        model: a :class:`~triochan.binding.collections.Collection`, or ``database.model(MappedClass)``. A class with
            ``model = None`` in its body is a base for others.
        stream: the name of the stream that messages go out on.
        fields: names of the fields that go out and that clients may set; ``"__all__"`` is all but the primary key.
        exclude: instead of ``fields``: all but these, and but the primary key.
        model_label: what clients know the model by; by default the model's own.
        channel_session_user: give inbound messages their user (:func:`triochan.auth.channel_session_user`).
        channel_session: without it, give them the connection's session at least.
        strict_ordering, slight_ordering: of a connection whose demultiplexer has the consumer among its ``consumers``.
        consumer: what routing, or a demultiplexer's ``consumers``, sends inbound messages to.
        message, kwargs: in an instance for an inbound message: it, and the routing's named groups.
        user, action, pk, data: what it asks for, and who does.
        instance: in an instance for an outbound message: the object that it is about.

    Raises (when a class is made):
        ImproperlyConfigured: no ``model``, or no :meth:`group_names`; ``fields`` and ``exclude``, or neither of them;
            or fields that the model hasn't got.
    """

    model: ClassVar[Source[Any] | None] = None
    stream: ClassVar[str | None] = None
    fields: ClassVar[Iterable[str] | None] = None
    exclude: ClassVar[Iterable[str] | None] = None
    model_label: ClassVar[str] = ""
    channel_session_user: ClassVar[bool] = True
    channel_session: ClassVar[bool] = False
    strict_ordering: ClassVar[bool] = False
    slight_ordering: ClassVar[bool] = False

    consumer: ClassVar[Handler]
    bound: ClassVar[Mapping[str, Field]] = {}
    """The fields that go out, and of which clients may set those that are writable."""

    message: Message
    kwargs: dict[str, Any]
    user: Any
    action: str
    pk: Any
    data: dict[str, Any] | None
    instance: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.model is None:
            if "model" not in cls.__dict__:
                raise ImproperlyConfigured(
                    f"{name_of(cls)} has no model; a base for other bindings says model = None"
                )
            return
        cls.check_class()
        source = cls.model
        cls.bound = _bound_fields(cls, source)
        if "model_label" not in cls.__dict__:
            cls.model_label = source.label
        if "consumer" not in cls.__dict__:
            cls.consumer = staticmethod(_consumer_of(cls))  # called as Binding.consumer(…)
        source.observe(cls)

    @classmethod
    def check_class(cls) -> None:
        """Find mistakes in the class when it is made; override to look for more.

        Raises:
            ImproperlyConfigured: one was found.
        """
        if not isinstance(cls.model, Source):
            raise ImproperlyConfigured(
                f"{name_of(cls)}.model is a Collection, or database.model(MappedClass), not {cls.model!r:.200}"
            )
        if getattr(cls.group_names, "__func__", None) is Binding.__dict__["group_names"].__func__:
            raise ImproperlyConfigured(
                f"{name_of(cls)} has no group_names(cls, instance): who is to see its instances?"
            )

    # -- outbound

    @classmethod
    def group_names(cls, instance: Any) -> Iterable[str]:
        """The groups that see ``instance``, as it is.

        Called with an instance as it was before a change, and as it is after it. For models in a database that is in
        the thread of the session, so related objects may be loaded. What it raises stops the change.
        """
        raise NotImplementedError

    def serialize(self, instance: Any, action: str) -> dict[str, Any]:
        """What to tell of ``instance``; ``{}``: nothing."""
        raise NotImplementedError

    @classmethod
    def encode(cls, stream: str, payload: dict[str, Any]) -> dict[str, Any]:
        """What a group is sent for ``payload``."""
        raise NotImplementedError

    @classmethod
    def names_of(cls, instance: Any) -> frozenset[str]:
        """:meth:`group_names`, checked.

        Raises:
            ImproperlyConfigured: one string instead of a list of them.
            ValueError: a name that is none.
        """
        names = cls().group_names(instance)  # of an instance, so that it may be a plain method as well
        if isinstance(names, (str, bytes)):
            raise ImproperlyConfigured(
                f"{name_of(cls)}.group_names() gives a list of names, not one string; write [{names!r}]"
            )
        return frozenset(check_name("group", name) for name in names or ())

    @classmethod
    def content_of(cls, instance: Any, action: str) -> dict[str, Any] | None:
        """The message that tells groups of ``instance``; None where there is nothing to tell."""
        self = cls()
        self.instance = instance
        try:
            payload = self.serialize(instance, action)
            return cls.encode(cls.stream or "", payload) if payload else None
        except (TypeError, ValueError, OverflowError) as error:
            assert cls.model is not None
            error.add_note(
                f"in {name_of(cls)}'s {action} of {cls.model_label} {cls.model.pk_of(instance)!r:.60}"
            )
            raise

    # -- inbound

    @classmethod
    def get_handler(cls) -> Handler:
        """:meth:`trigger_inbound` in the decorators that the class asks for; the place to add more of them.

        Called once, when the class is made. A message whose user is known already, because the demultiplexer has
        loaded it, keeps that one.
        """
        plain = cls.trigger_inbound
        if cls.channel_session_user:
            decorated = channel_session_user(plain)
        elif cls.channel_session:
            decorated = channel_session(plain)
        else:
            return plain

        async def handler(message: Message, **kwargs: Any) -> None:
            await (decorated if message.user is None else plain)(message, **kwargs)

        return handler

    @classmethod
    async def trigger_inbound(cls, message: Message, **kwargs: Any) -> None:
        """Do what an inbound message asks for, or answer why not."""
        self = cls()
        self.message = message
        self.kwargs = kwargs
        self.user = AnonymousUser() if message.user is None else message.user
        try:
            try:
                self.action, self.pk, self.data = self.deserialize(message)
            except ValueError as error:  # one of the program's own, of what a client has sent
                logger.warning(
                    "%s.deserialize on %s: %s: %.200s",
                    name_of(cls),
                    message.channel.name,
                    type(error).__name__,
                    error,
                )
                raise ChangeRefused(INVALID) from error
            await self.run_action(self.action, self.pk, self.data)
        except ChangeRefused as refusal:
            await self.refuse(refusal)

    def deserialize(self, message: Message) -> tuple[str, Any, dict[str, Any] | None]:
        """Action, primary key (None to create) and data (None to delete), not yet checked.

        Raises:
            ChangeRefused: the message has another form.
            ValueError: the same, where there is nothing to tell the client of it; the log has it.
        """
        raise NotImplementedError

    async def refuse(self, refusal: ChangeRefused) -> None:
        """Tell the client that nothing was changed, and why."""
        raise NotImplementedError

    def has_permission(self, user: Any, action: str, pk: Any) -> bool | Awaitable[bool]:
        """Whether ``user`` may do this; nobody may, unless you override it.

        It may be a plain method or an ``async def``; both run in Trio. ``self.data`` (not validated yet) and
        ``self.message`` are there too.

        Args:
            user: of the connection; an AnonymousUser where nobody has logged in.
            action: ``"create"``, ``"update"`` or ``"delete"``.
            pk: of the instance, which need not exist; None to create.
        """
        return False

    async def run_action(self, action: str, pk: Any, data: Any) -> None:
        """Check what was asked for, and do it.

        Raises:
            ChangeRefused: it is malformed, or not permitted, or can't be done.
        """
        assert self.model is not None
        if action not in ACTIONS:
            expected = f"$.action: 'create', 'update' or 'delete' is expected, not {said(action)}"
            raise ChangeRefused("unknown action", [expected])
        application = self.message.application
        if action == CREATE:
            self.pk = pk = None
        else:
            self.pk = pk = _check_all({"pk": self.model.pk}, {"pk": pk}, "$", application)["pk"]
        if action != DELETE and not isinstance(data, dict):
            raise ChangeRefused(INVALID, [f"$.data: an object is expected, not {said(data)}"])
        permitted = self.has_permission(self.user, action, pk)
        if inspect.isawaitable(permitted):
            permitted = await permitted
        if not permitted:
            raise ChangeRefused("not permitted")
        if action == DELETE:
            await self.delete(pk)
        elif action == CREATE:
            await self.create(self.validate(action, data))
        else:
            await self.update(pk, self.validate(action, data))

    def validate(self, action: str, data: dict[str, Any]) -> dict[str, Any]:
        """The values of ``data``, each of its field's type.

        Raises:
            ChangeRefused: fields that clients may not set, values of other types, or too few to create an instance.
        """
        assert self.model is not None
        writable = {
            name: field
            for name, field in self.bound.items()
            if field.writable and (action == CREATE or name != self.model.pk.name)
        }
        required = [name for name, field in writable.items() if field.required] if action == CREATE else []
        return _check_all(writable, data, "$.data", self.message.application, required)

    async def create(self, data: dict[str, Any]) -> None:
        """Make an instance of ``data``, which has been validated."""
        assert self.model is not None
        await self.model.create(data)

    async def update(self, pk: Any, data: dict[str, Any]) -> None:
        """Give the instance with the key ``pk`` the values of ``data``, which have been validated."""
        assert self.model is not None
        await self.model.change(pk, data)

    async def delete(self, pk: Any) -> None:
        """Delete the instance with the key ``pk``."""
        assert self.model is not None
        await self.model.remove(pk)


def _consumer_of(cls: type[Binding]) -> Handler:
    handler = cls.get_handler()

    async def consumer(message: Message, **kwargs: Any) -> None:
        await handler(message, **kwargs)

    consumer.__module__ = cls.__module__
    consumer.__qualname__ = f"{cls.__qualname__}.consumer"
    # Where a demultiplexer looks for what its streams ask of the connection.
    for name in ("channel_session_user", "channel_session", "strict_ordering", "slight_ordering"):
        consumer.__dict__[name] = getattr(cls, name)
    return consumer


def _bound_fields(cls: type[Binding], source: Source[Any]) -> dict[str, Field]:
    given = [name for name in ("fields", "exclude") if getattr(cls, name) is not None]
    if len(given) != 1:
        raise ImproperlyConfigured(
            f"{name_of(cls)} has {'both fields and exclude' if given else 'neither fields nor exclude'}; give one of "
            f"them, so that nothing leaves the server by oversight (fields = {ALL!r} sends everything)"
        )
    (option,) = given
    value: Any = getattr(cls, option)
    others = {name: field for name, field in source.fields.items() if name != source.pk.name}
    if option == "fields" and value in (ALL, [ALL], (ALL,)):
        return others
    if isinstance(value, (str, bytes)):
        raise ImproperlyConfigured(
            f"{name_of(cls)}.{option} is a list of names, not one string; write [{value!r}]"
        )
    names = list(value)
    unknown = [name for name in names if name not in source.fields]
    if unknown:
        raise ImproperlyConfigured(
            f"{name_of(cls)}.{option}: {source.label} has no field {unknown[0]!r}; it has {', '.join(source.fields)}"
        )
    if option == "fields":
        return {name: source.fields[name] for name in names}
    return {name: field for name, field in others.items() if name not in names}


def _check_all(
    fields: Mapping[str, Field],
    data: Mapping[str, Any],
    place: str,
    application: HasConverter | None,
    required: Iterable[str] = (),
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for name, value in data.items():
        if name not in fields:
            wrong.append(f"{place}.{name[:40]}: no field that can be set here")
            continue
        try:
            values[name] = fields[name].check(value, f"{place}.{name}", application)
        except InvalidContent as error:
            wrong += error.details
    wrong += [f"{place}.{name}: missing" for name in required if name not in data]
    if wrong:
        raise ChangeRefused(INVALID, wrong[:MAX_DETAILS])
    return values


__all__ = ["ACTIONS", "CREATE", "DELETE", "UPDATE", "Binding", "ChangeRefused"]

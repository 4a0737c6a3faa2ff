"""What a binding binds: the instances of one model, wherever they are kept, and who has to be told of a change."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs
import trio

from ..exceptions import InvalidContent, TriochanError
from ..layers import Group, running_layer
from ..running import current_application
from ..typed import ContentType, HasConverter

logger = logging.getLogger("triochan.binding")

T = TypeVar("T")
R = TypeVar("R")

CREATE = "create"
UPDATE = "update"
DELETE = "delete"
ACTIONS = (CREATE, UPDATE, DELETE)

SEND_SECONDS = 5.0
"""How long telling the groups of one change may take, whatever happens to the task that made it."""


class ChangeRefused(TriochanError):
    """A change that a client asked for is not made, for a reason that the client is told.

    Raise it in a binding's ``create``, ``update`` or ``delete`` to refuse a change for reasons of your own.

    Args:
        error: a few words, e.g. ``"not permitted"``.
        details: more of them, e.g. one for each field that was wrong.
    """

    def __init__(self, error: str, details: Iterable[str] = ()) -> None:
        self.error = error
        self.details = list(details)
        super().__init__(error, self.details)

    def __str__(self) -> str:
        return "; ".join([self.error, *self.details])


@attrs.frozen
class Field:
    """One field of a model.

    Attributes:
        type: what its values are; ``typing.Any`` where nobody has said.
        required: a new instance can't be made without it.
        writable: a client may be allowed to set it; False for what the model or the database computes.
        max_length: of a string, in characters.
    """

    name: str
    type: Any
    required: bool = False
    writable: bool = True
    max_length: int | None = None
    _content: ContentType = attrs.field(init=False, eq=False, repr=False)

    @_content.default
    def _content_of_type(self) -> ContentType:
        return ContentType(self.type, f"field {self.name!r}")

    def check(self, value: Any, place: str, application: HasConverter | None = None) -> Any:
        """The field's value that ``value`` stands for; strictly, as for typed content (:mod:`triochan.typed`).

        Args:
            value: as it came out of JSON.
            place: what to call it, e.g. ``"$.data.title"``.
            application: whose converter makes it; None: the current one's.

        Raises:
            InvalidContent: it is none.
        """
        try:
            made = self._content.structure(value, application or current_application())
        except InvalidContent as error:
            details = [
                place + line.removeprefix("$") if line.startswith("$") else line for line in error.details
            ]
            raise InvalidContent(details) from error
        if self.max_length is not None and isinstance(made, str) and len(made) > self.max_length:
            raise InvalidContent(
                [f"{place}: at most {self.max_length} characters are expected, not {len(made)}"]
            )
        return made


@attrs.frozen
class Delivery:
    """A message for one group."""

    group: str
    content: dict[str, Any]


class Observer(Protocol):
    """What a source knows of a binding class."""

    def names_of(self, instance: Any) -> frozenset[str]:
        """The groups that see ``instance``."""

    def content_of(self, instance: Any, action: str) -> dict[str, Any] | None:
        """The message that tells a group of it; None for none."""


@attrs.frozen
class Sight:
    """What one observer's groups knew of an instance before a change."""

    names: frozenset[str] = frozenset()
    farewell: dict[str, Any] | None = None
    """The message for groups that lose sight of it: it says what they knew, not what it has become."""


Before = dict[Observer, Sight]


def look(observers: Iterable[Observer], instance: Any) -> Before:
    """What ``observers`` have to remember of ``instance`` before it changes; None: there is no instance yet."""
    before: Before = {}
    for observer in observers:
        names = frozenset() if instance is None else observer.names_of(instance)
        before[observer] = Sight(names, observer.content_of(instance, DELETE) if names else None)
    return before


def deliveries(before: Before, instance: Any) -> list[Delivery]:
    """The messages about a change, by the groups' difference: first delete, then update, then create.

    Args:
        instance: what has become of it; None: it is gone.
    """
    messages: list[Delivery] = []
    for observer, sight in before.items():
        names = frozenset() if instance is None else observer.names_of(instance)
        _add(messages, sight.names - names, sight.farewell)
        for action, groups in ((UPDATE, sight.names & names), (CREATE, names - sight.names)):
            if groups:
                _add(messages, groups, observer.content_of(instance, action))
    return messages


def _add(messages: list[Delivery], groups: Iterable[str], content: dict[str, Any] | None) -> None:
    if content is not None:
        messages.extend(Delivery(group, content) for group in sorted(groups))


async def deliver(messages: Iterable[Delivery]) -> None:
    """Tell the groups of a change that has been made, even if the task is being cancelled. Raises nothing.

    The change stands whether or not it can be told: an error here would look as if it had failed, and invite a second
    one. So it is logged. Where no server runs in this Trio run there is nobody to tell.
    """
    if running_layer() is None:
        return
    waiting = list(messages)
    with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_SECONDS) as scope:
        while waiting:
            message = waiting[0]
            try:
                await Group(message.group).send(message.content)
            except Exception:
                logger.exception("group %r was not told of a change: %.200r", message.group, message.content)
            del waiting[0]
    if scope.cancelled_caught:
        groups = ", ".join(message.group for message in waiting)
        logger.error("not told of a change within %g s: groups %s", SEND_SECONDS, groups)


class Source(ABC, Generic[T]):
    """The instances of one model.

    Attributes:
        label: what clients know the model by, e.g. ``"blog.post"``.
        fields: by name, the primary key among them.
        pk: the primary key's field.
        turn: held while groups are told of changes, so that these go out in the order in which they were made.
        observers: the binding classes.
    """

    label: str
    fields: Mapping[str, Field]
    pk: Field
    turn: trio.Lock

    def __init__(self) -> None:
        self.observers: list[Observer] = []

    def observe(self, observer: Observer) -> None:
        """Tell ``observer`` of every change from now on."""
        self.observers.append(observer)

    def pk_of(self, instance: T) -> Any:
        """The primary key of an instance."""
        return getattr(instance, self.pk.name)

    # -- what clients ask for; every argument has been checked

    @abstractmethod
    async def create(self, values: dict[str, Any]) -> None:
        """Make an instance of the values by field.

        Raises:
            ChangeRefused: it can't be made of these values.
        """

    @abstractmethod
    async def change(self, pk: Any, values: dict[str, Any]) -> None:
        """Give an instance new values by field.

        Raises:
            ChangeRefused: there is none, or it can't have these values.
        """

    @abstractmethod
    async def remove(self, pk: Any) -> None:
        """Delete an instance.

        Raises:
            ChangeRefused: there is none, or it can't be deleted.
        """

    @abstractmethod
    async def collect(self, view: Callable[[T], R | None]) -> list[R]:
        """What ``view`` makes of each instance, in the order of their keys or of their arrival; without its Nones.

        Called while ``turn`` is held; all changes that were told before it are in it.
        """


def label_of(model: type[Any]) -> str:
    """``module.class`` in lower case, of a dotted module its last part."""
    return f"{model.__module__.rpartition('.')[2]}.{model.__name__}".lower()


def said_keys(keys: Sequence[Any]) -> str:
    """A few primary keys for a line of the log."""
    more = f" and {len(keys) - _SAID_KEYS} more" if len(keys) > _SAID_KEYS else ""
    return ", ".join(f"{key!r:.60}" for key in keys[:_SAID_KEYS]) + more


_SAID_KEYS = 5


def no_such_object() -> ChangeRefused:
    return ChangeRefused("no such object")


def made(make: Callable[[], R]) -> R:
    """What ``make`` makes of a client's values, which have their fields' types.

    Raises:
        ChangeRefused: the model's own validators refuse them. The words of a ValueError are for the client; those of a
            TypeError may be about what is no client's business, such as an argument that no field stands for.
    """
    try:
        return make()
    except ValueError as error:
        raise ChangeRefused("invalid data", [str(error.args[0] if error.args else error)[:200]]) from error
    except TypeError as error:
        logger.warning("a change that a client asked for was refused", exc_info=error)
        raise ChangeRefused("invalid data") from error

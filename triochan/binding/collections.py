"""An observable collection: attrs objects in this process's memory, and bindings that are told when they change."""

from __future__ import annotations

import copy
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, get_args, get_origin

import attrs
import trio

from ..exceptions import ImproperlyConfigured
from ..routing import name_of
from .source import ChangeRefused, Field, Source, deliver, deliveries, label_of, look, made, no_such_object

T = TypeVar("T")
R = TypeVar("R")
_NEVER_CHANGE = frozenset({str, int, float, bool, bytes, complex, type(None)})
"""What needs no copy."""


class Collection(Source[T]):
    """Instances of one attrs class, by their primary key, in the order in which they came.

    ::

        posts = Collection(Post)
        post = await posts.insert(Post(title="Hello"))
        post = await posts.update(post.id, title="Hello again")
        await posts.delete(post.id)

    Each of the three changes the collection and then tells the groups of its bindings, in one order for all tasks;
    when it returns, that is done. A cancelled one has done both or neither. The collection keeps copies and gives out
    copies: what is done to an object that it gave out does nothing to it.

    Args:
        cls: an attrs class.
        pk: the name of its attribute that is the primary key. Where that is an ``int | None``, an instance whose key is
            None gets the next number.
        label: what clients know the model by; by default the last part of the class's module, a dot and its name.

    Raises:
        ImproperlyConfigured: no attrs class, or one without that attribute.
    """

    def __init__(self, cls: type[T], *, pk: str = "id", label: str | None = None) -> None:
        super().__init__()
        if not (isinstance(cls, type) and attrs.has(cls)):
            raise ImproperlyConfigured(f"a Collection is of an attrs class, not of {name_of(cls)}")
        attrs.resolve_types(cls)
        self.cls = cls
        self.label = label or label_of(cls)
        self._attributes = {each.name: each for each in attrs.fields(cls)}
        if pk not in self._attributes:
            raise ImproperlyConfigured(
                f"{name_of(cls)} has no attribute {pk!r} to be its primary key; pk= names one of "
                f"{', '.join(self._attributes)}"
            )
        self.fields = {name: _field(each) for name, each in self._attributes.items()}
        pk_type, optional = _without_none(self.fields[pk].type)
        self.pk = Field(pk, pk_type, required=self.fields[pk].required)
        self._numbered = optional and pk_type is int
        self._next = 1
        self._instances: dict[Any, T] = {}
        self.turn = trio.Lock()

    # -- changes

    async def insert(self, instance: T) -> T:
        """Add an instance; it, with its key.

        Raises:
            TypeError: it is of another class, or has no key.
            ValueError: the collection has one with its key.
        """
        if not isinstance(instance, self.cls):
            raise TypeError(f"a collection of {self.cls.__name__} takes no {type(instance).__name__}")
        async with self.turn:
            pk = self.pk_of(instance)
            if pk is None and self._numbered:
                instance = self._evolve(instance, {self.pk.name: self._next})
                pk = self._next
            if pk is None:
                raise TypeError(f"{instance!r:.200} has no {self.pk.name}")
            if pk in self._instances:
                raise ValueError(f"there is a {self.cls.__name__} with {self.pk.name} {pk!r} already")
            kept = self._copy(instance)
            messages = deliveries(look(self.observers, None), kept)
            self._instances[pk] = kept
            if type(pk) is int:
                self._next = max(self._next, pk + 1)
            await deliver(messages)
        return self._copy(kept)

    async def update(self, pk: Any, /, **changes: Any) -> T:
        """Give an instance new values, which its class's converters and validators see; it, as it is now.

        Raises:
            KeyError: there is none with that key.
            TypeError: an attribute that it hasn't got, or that can't be set; or the key.
        """
        for name in changes:
            if name not in self.fields or not self.fields[name].writable or name == self.pk.name:
                raise TypeError(f"{self.cls.__name__}.{name} can't be given a new value")
        return await self._replace(pk, lambda instance: self._evolve(instance, changes))

    async def delete(self, pk: Any, /) -> T:
        """Take an instance out; it, as it was.

        Raises:
            KeyError: there is none with that key.
        """
        async with self.turn:
            gone = self._find(pk)
            messages = deliveries(look(self.observers, gone), None)
            del self._instances[pk]
            await deliver(messages)
        return gone

    async def _replace(self, pk: Any, make: Callable[[T], T]) -> T:
        async with self.turn:
            instance = self._find(pk)
            before = look(self.observers, instance)
            kept = self._copy(make(instance))
            messages = deliveries(before, kept)
            self._instances[pk] = kept
            await deliver(messages)
        return self._copy(kept)

    def _copy(self, instance: T) -> T:
        """A copy down to the values in its values: a list that the program goes on with is not the collection's.

        What can't be copied (a lock, an open file) is shared.
        """
        made = copy.copy(instance)
        for name in self._attributes:
            value = getattr(made, name)
            if value.__class__ not in _NEVER_CHANGE:
                try:
                    value = copy.deepcopy(value)
                except Exception:  # noqa: BLE001 - copying runs the program's code, and may raise anything
                    continue
                object.__setattr__(made, name, value)  # of a frozen one too
        return made

    def _find(self, pk: Any) -> T:
        try:
            return self._instances[pk]
        except KeyError:
            raise _NotHere(pk) from None

    def _evolve(self, instance: T, changes: dict[str, Any]) -> T:
        aliases = {self._attributes[name].alias: value for name, value in changes.items()}
        return attrs.evolve(instance, **aliases)  # type: ignore[misc]  # T is an attrs class

    # -- looking

    def get(self, pk: Any) -> T | None:
        """The instance with that key, None where there is none."""
        instance = self._instances.get(pk)
        return None if instance is None else self._copy(instance)

    def __getitem__(self, pk: Any) -> T:
        return self._copy(self._instances[pk])

    def __contains__(self, pk: object) -> bool:
        return pk in self._instances

    def __len__(self) -> int:
        return len(self._instances)

    def __iter__(self) -> Iterator[T]:
        """The instances, as they are when it is asked for them."""
        return map(self._copy, list(self._instances.values()))

    def __repr__(self) -> str:
        return f"<Collection of {len(self)} {self.label}>"

    # -- what clients ask for

    async def create(self, values: dict[str, Any]) -> None:
        instance: Any = made(
            lambda: self.cls(**{self._attributes[name].alias: each for name, each in values.items()})
        )
        if self.pk_of(instance) in self:
            raise ChangeRefused("invalid data", [f"$.data.{self.pk.name}: there is one already"])
        await self.insert(instance)

    async def change(self, pk: Any, values: dict[str, Any]) -> None:
        try:
            await self._replace(pk, lambda instance: made(lambda: self._evolve(instance, values)))
        except _NotHere:
            raise no_such_object() from None

    async def remove(self, pk: Any) -> None:
        try:
            await self.delete(pk)
        except _NotHere:
            raise no_such_object() from None

    async def collect(self, view: Callable[[T], R | None]) -> list[R]:
        return [seen for instance in self._instances.values() if (seen := view(instance)) is not None]


def _field(attribute: attrs.Attribute[Any]) -> Field:
    return Field(
        attribute.name,
        Any if attribute.type is None else attribute.type,
        required=attribute.init and attribute.default is attrs.NOTHING,
        writable=attribute.init,
    )


def _without_none(type_: Any) -> tuple[Any, bool]:
    """``(X, True)`` of ``X | None``, ``(X, False)`` of another X."""
    if get_origin(type_) in (typing.Union, types.UnionType):
        others = tuple(each for each in get_args(type_) if each is not type(None))
        if len(others) < len(get_args(type_)):
            return (others[0] if len(others) == 1 else typing.Union[others]), True  # noqa: UP007
    return type_, False


class _NotHere(KeyError):
    """A key of a change that is not in the collection, unlike a KeyError out of a binding's own methods."""

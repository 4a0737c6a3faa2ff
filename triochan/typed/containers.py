"""Hooks for JSON's arrays and objects."""

from __future__ import annotations

import dataclasses
from collections import abc
from collections.abc import Collection, Mapping
from typing import Any, get_args, get_origin

import attrs
from cattrs import Converter
from cattrs.cols import namedtuple_structure_factory
from cattrs.errors import StructureHandlerNotFoundError

from .mistakes import Misfit, Within, misfit, said
from .scalars import Hook

ARRAYS: Mapping[Any, type] = {
    list: list,
    set: set,
    frozenset: frozenset,
    abc.Sequence: list,
    abc.MutableSequence: list,
    abc.Collection: list,
    abc.Iterable: list,
    abc.Set: frozenset,
    abc.MutableSet: set,
}
"""What an array is made into, for each annotation."""
OBJECTS = (dict, abc.Mapping, abc.MutableMapping)


_FEW = 64
"""Values that may well have one hash: the time that they take in a set grows with the square of their number."""
_OF_ONE_HASH = 16
"""Of more values, those with one hash."""


def check_hashes(values: Collection[Any]) -> None:
    """Refuse values that were chosen to have one hash: a set or a dict of 50,000 of them takes ten seconds to make.

    A number's hash, and a UUID's, is its remainder by 2 ** 61 - 1, so that anybody can find such values. Those of
    strings differ from process to process.

    Raises:
        Misfit: there are many such values.
        TypeError: a value has no hash.
    """
    if len(values) <= _FEW or all(each.__class__ is str for each in values):
        return
    found: dict[int, list[Any]] = {}
    for each in values:
        same = found.setdefault(hash(each), [])
        if each not in same:
            same.append(each)
            if len(same) > _OF_ONE_HASH:
                raise Misfit("values are expected whose hashes differ, not many that have the same one")


def origin(annotation: Any) -> Any:
    return get_origin(annotation) or annotation


def hook_for(annotation: Any, converter: Converter) -> Hook:
    try:
        return converter.get_structure_hook(annotation)
    except RecursionError:  # a class that holds itself: its hook is being made
        return converter.structure


def alias_factory(alias: Any, converter: Converter) -> Hook:
    """The hook of what an alias stands for: cattrs knows the aliases of Python 3.12 and later only."""
    annotation = alias.__value__
    hook = hook_for(annotation, converter)
    return lambda value, _: hook(value, annotation)


def array_factory(annotation: Any, converter: Converter) -> Hook:
    make = ARRAYS[origin(annotation)]
    [of] = get_args(annotation) or (Any,)
    hook = hook_for(of, converter)

    def structure(values: Any, _: Any) -> Any:
        if values.__class__ is not list:
            raise misfit("an array", values)
        made: list[Any] = []
        try:
            for each in values:
                made.append(hook(each, of))
        except Exception as error:  # noqa: BLE001 - it goes on, with its place
            # The first mistake of an array is told, so that the answer to a long one stays short.
            raise Within(f"[{len(made)}]", error) from None
        if make is list:
            return made
        check_hashes(made)
        return make(made)

    return structure


def tuple_factory(annotation: Any, converter: Converter) -> Hook:
    parts = get_args(annotation)
    if not parts or (len(parts) == 2 and parts[1] is Ellipsis):
        to_list = array_factory(list[parts[0] if parts else Any], converter)  # type: ignore[misc]
        return lambda values, _: tuple(to_list(values, _))
    parts = () if parts == ((),) else parts
    hooks = [hook_for(part, converter) for part in parts]

    def structure(values: Any, _: Any) -> tuple[Any, ...]:
        if values.__class__ is not list or len(values) != len(parts):
            what = f"an array of {len(values)}" if isinstance(values, list) else said(values)
            raise Misfit(f"an array of {len(parts)} is expected, not {what}")
        made: list[Any] = []
        try:
            for hook, part, each in zip(hooks, parts, values, strict=True):
                made.append(hook(each, part))
        except Exception as error:  # noqa: BLE001 - it goes on, with its place
            raise Within(f"[{len(made)}]", error) from None
        return tuple(made)

    return structure


def object_factory(annotation: Any, converter: Converter) -> Hook:
    key_type, of = get_args(annotation) or (Any, Any)
    key_hook, hook = hook_for(key_type, converter), hook_for(of, converter)

    def structure(values: Any, _: Any) -> dict[Any, Any]:
        if values.__class__ is not dict:
            raise misfit("an object", values)
        pairs: list[tuple[Any, Any]] = []
        for key, each in values.items():
            try:
                pairs.append((key_hook(key, key_type), hook(each, of)))
            except Exception as error:  # noqa: BLE001 - it goes on, with its place
                raise Within(f"[{said(key)}]", error) from None
        check_hashes([key for key, _ in pairs])
        return dict(pairs)

    return structure


def _checked(kind: type, expected: str, hook: Hook) -> Hook:
    # What cattrs makes takes for granted that it gets the right kind: a string has indices too.
    def structure(value: Any, cl: Any) -> Any:
        if value.__class__ is not kind:
            raise misfit(expected, value)
        return hook(value, cl)

    return structure


def is_class(annotation: Any) -> bool:
    return attrs.has(origin(annotation)) or dataclasses.is_dataclass(origin(annotation))


def class_factory(cl: Any, converter: Converter) -> Hook:
    return _checked(dict, "an object", converter.gen_structure_attrs_fromdict(cl))


def typeddict_factory(cl: Any, converter: Converter) -> Hook:
    return _checked(dict, "an object", converter.gen_structure_typeddict(cl))


def namedtuple_factory(cl: Any, converter: Converter) -> Hook:
    return _checked(list, "an array", namedtuple_structure_factory(cl, converter))


def refuse_collection(annotation: Any, _: Converter) -> Hook:
    raise StructureHandlerNotFoundError(f"no hook for {annotation}", annotation)

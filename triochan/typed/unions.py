"""Unions: which of its members a JSON value is for, by the value's own kind and by tags."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from cattrs import Converter

from ..exceptions import ImproperlyConfigured
from .annotations import name_of_type, unwrap
from .containers import ARRAYS, OBJECTS, hook_for, is_class, origin
from .mistakes import Misfit, misfit, one_of, said
from .scalars import FROM_STRING, Hook, literals

_KINDS: Mapping[type, str] = {
    type(None): "null",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def union_factory(union: Any, converter: Converter) -> Hook:
    """The hook of a union.

    Each kind of JSON value goes to the members that it may be for, in their order, until it fits one. Of several
    classes the tag says which.

    Raises:
        ImproperlyConfigured: several classes, and no tag.
    """
    members: dict[type, list[Any]] = {kind: [] for kind in _KINDS}
    for member in get_args(union):
        for kind in _kinds_of(member, getattr(converter, "large_integers_as_strings", False)):
            members[kind].append(member)
    if all(len(each) <= 1 for each in members.values()):
        hooks = {kind: (hook_for(each[0], converter), each[0]) for kind, each in members.items() if each}
    else:
        hooks = {
            kind: (_choice(union, kind, each, converter), union) for kind, each in members.items() if each
        }
    expected = " or ".join(_KINDS[kind] for kind in hooks if not (kind is int and float in hooks))

    def structure(value: Any, _: Any) -> Any:
        found = hooks.get(value.__class__)
        if found is None:
            raise misfit(expected, value)
        hook, member = found
        return hook(value, member)

    return structure


def _choice(union: Any, kind: type, members: list[Any], converter: Converter) -> Hook:
    """What takes a value of ``kind`` to the right one of ``members``."""
    if len(members) == 1:
        [member] = members
        hook = hook_for(member, converter)
        return lambda value, _: hook(value, member)
    if kind is dict:
        return _tagged(union, members, converter)
    hooks = [(hook_for(member, converter), member) for member in members]

    def structure(value: Any, _: Any) -> Any:
        wrong: list[str] = []
        for hook, member in hooks:
            try:
                return hook(value, member)
            except Misfit as error:
                wrong.append(error.what)
            except Exception as error:
                if len(hooks) - len(wrong) == 1:
                    raise
                wrong.append(type(error).__name__)
        raise Misfit("; ".join(dict.fromkeys(wrong)))

    return structure


def _tagged(union: Any, members: list[Any], converter: Converter) -> Hook:
    tag, by_value = _find_tag(union, members)
    hooks = {key: (hook_for(member, converter), member) for key, member in by_value.items()}
    expected = one_of(value for _, value in hooks)

    def structure(value: Any, _: Any) -> Any:
        # The union's hook has seen to it that it is a dict.
        if tag not in value:
            raise Misfit(f"missing; it has to be {expected}", f".{tag}")
        said_tag = value[tag]
        try:
            found = hooks.get((said_tag.__class__, said_tag))
        except TypeError:  # not hashable
            found = None
        if found is None:
            raise Misfit(f"{expected} is expected, not {said(said_tag)}", f".{tag}")
        hook, member = found
        return hook(value, member)

    return structure


def _find_tag(union: Any, members: list[Any]) -> tuple[str, dict[tuple[type, Any], Any]]:
    """The field that tells ``members`` apart, and which member each of its values means."""
    fields = [_literal_fields(member) for member in members]
    for name in fields[0]:
        if all(name in each for each in fields):
            by_value: dict[tuple[type, Any], Any] = {}
            values = [
                (key, member) for each, member in zip(fields, members, strict=True) for key in each[name]
            ]
            by_value.update(values)
            if len(by_value) == len(values):
                return name, by_value
    names = ", ".join(map(name_of_type, members))
    raise ImproperlyConfigured(
        f"nothing tells {names} apart in {name_of_type(union)}; give each a field of the same name with a Literal of "
        "its own, e.g. type: Literal['move'], or register a hook for the union on the application's converter"
    )


def _literal_fields(member: Any) -> dict[str, list[tuple[type, Any]]]:
    """The fields of a class that are annotated with a ``Literal``, with its values."""
    member = unwrap(member)
    cl = origin(member)
    if not (is_class(member) or typing.is_typeddict(cl)):
        return {}
    hints = {name: unwrap(hint) for name, hint in typing.get_type_hints(cl).items()}
    if attrs.has(cl):
        names = [each.name for each in attrs.fields(cl) if each.init]
    elif dataclasses.is_dataclass(cl):
        names = [each.name for each in dataclasses.fields(cl) if each.init]
    else:
        names = list(hints)
    return {
        name: [(type(value), value) for _, value in literals(hints[name])]
        for name in names
        if get_origin(hints.get(name)) is Literal
    }


def _kinds_of(annotation: Any, int_as_str: bool) -> set[type]:
    """The kinds of JSON values that may be for ``annotation``; all of them where only a hook can say.

    Args:
        int_as_str: an integer may be a string of digits.
    """
    annotation = unwrap(annotation)
    base = origin(annotation)
    if annotation is None or annotation is type(None):
        return {type(None)}
    if is_union(annotation):
        return set().union(*(_kinds_of(each, int_as_str) for each in get_args(annotation)))
    if base is Literal:
        return {type(value) for _, value in literals(annotation)}
    if base is tuple or base in ARRAYS:
        return {list}
    if base in OBJECTS or is_class(annotation) or typing.is_typeddict(base):
        return {dict}
    if isinstance(base, type):
        if issubclass(base, Enum):
            return {type(each.value) for each in base} & _KINDS.keys()
        if base in FROM_STRING or issubclass(base, (str, bytes)):
            return {str}
        if issubclass(base, tuple):
            return {list}
        if issubclass(base, float):
            return {int, float}
        if issubclass(base, bool):
            return {bool}
        if issubclass(base, int):
            return {int, str} if int_as_str else {int}
    return set(_KINDS)

"""The cattrs converter between JSON's values and objects: strict, so that no value is taken for another one.

A scalar fits its own type only, but a whole number fits ``float`` (JavaScript writes 1.0 as 1). Arrays fit lists,
tuples and sets; strings fit ``datetime``, ``date`` and ``time`` in ISO 8601, ``UUID``, ``Decimal`` (finite, of at most
1,000 digits), and ``bytes`` in Base64. Objects fit attrs classes, dataclasses and TypedDicts, and a key that these do
not have is an error. Of a union, several classes are told apart by their tag: a field of the same name in all of them,
in each annotated with another ``Literal``.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import typing
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Any, Literal, get_origin

from cattrs import Converter
from cattrs.cols import is_namedtuple
from cattrs.errors import StructureHandlerNotFoundError

from ..content import decimal_text
from ..exceptions import ImproperlyConfigured
from .annotations import is_alias, name_of_type
from .containers import (
    ARRAYS,
    OBJECTS,
    alias_factory,
    array_factory,
    class_factory,
    is_class,
    namedtuple_factory,
    object_factory,
    origin,
    refuse_collection,
    tuple_factory,
    typeddict_factory,
)
from .mistakes import explain
from .scalars import (
    FROM_STRING,
    SCALARS,
    Hook,
    from_string,
    literal_factory,
    structure_large_int,
    structure_none,
    unstructure_large_int,
)
from .unions import is_union, union_factory

__all__ = ["Hook", "explain", "make_converter", "structure_hook"]


class _Converter(Converter):
    """cattrs keeps hooks for unions where a hook for all unions, such as ours, would come before them."""

    large_integers_as_strings = False

    def register_structure_hook(self, cl: Any, func: Any = None) -> Any:
        if func is None or not is_union(cl):
            return super().register_structure_hook(cl, func)
        return self.register_structure_hook_func(lambda annotation: annotation == cl, func)


def make_converter(*, forbid_extra_keys: bool = True, large_integers_as_strings: bool = False) -> Converter:
    """A converter as every :class:`triochan.Application` has one; hooks may be registered on it.

    Args:
        forbid_extra_keys: refuse an object with a key that its class does not have, instead of dropping it.
        large_integers_as_strings: beyond ±(2**53 - 1), integers are strings of digits, both ways.
    """
    converter = _Converter(
        forbid_extra_keys=forbid_extra_keys, unstruct_collection_overrides={AbstractSet: list}
    )
    for scalar, hook in SCALARS.items():
        converter.register_structure_hook(scalar, hook)
    for kind in FROM_STRING:
        converter.register_structure_hook(kind, from_string(kind))
    for moment in (datetime.datetime, datetime.date, datetime.time):
        converter.register_unstructure_hook(moment, lambda value: value.isoformat())
    converter.register_unstructure_hook(uuid.UUID, str)
    converter.register_unstructure_hook(decimal.Decimal, decimal_text)
    converter.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode())
    if large_integers_as_strings:
        converter.large_integers_as_strings = True
        converter.register_structure_hook(int, structure_large_int)
        converter.register_unstructure_hook(int, unstructure_large_int)
        converter.register_unstructure_hook(bool, bool)  # which is an int, but for JSON
        converter.register_unstructure_hook(Enum, lambda member: converter.unstructure(member.value))
    # cattrs asks the factories from the last one on.
    factories: list[tuple[Callable[[Any], bool], Callable[[Any, Converter], Hook]]] = [
        (lambda t: t is object, lambda t, _: lambda value, _: value),
        (lambda t: t is None or t is type(None), lambda t, _: structure_none),
        (lambda t: origin(t) in (deque, defaultdict, Counter), refuse_collection),
        (is_class, class_factory),
        (typing.is_typeddict, typeddict_factory),
        (is_namedtuple, namedtuple_factory),
        (lambda t: origin(t) is tuple, tuple_factory),
        (lambda t: origin(t) in ARRAYS, array_factory),
        (lambda t: origin(t) in OBJECTS, object_factory),
        (lambda t: get_origin(t) is Literal, literal_factory),
        (is_union, union_factory),
        (is_alias, alias_factory),
    ]
    for predicate, factory in factories:
        converter.register_structure_hook_factory(predicate, factory)
    return converter


def structure_hook(converter: Converter, annotation: Any, place: str) -> Hook:
    """What makes values into ``annotation``, called with both.

    Args:
        place: where the annotation stands, for the message.

    Raises:
        ImproperlyConfigured: something in it that nothing can be made into, or a name that is not to be found.
    """
    try:
        return converter.get_structure_hook(annotation)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"{place}: {error}") from None
    except StructureHandlerNotFoundError as error:
        raise ImproperlyConfigured(
            f"{place}: JSON values can't be made into {name_of_type(error.type_)}; register a hook for it on the "
            "application's converter"
        ) from None
    except NameError as error:
        raise ImproperlyConfigured(
            f"{place}: {error}; names in the annotations of {name_of_type(annotation)} are looked up in its module"
        ) from None

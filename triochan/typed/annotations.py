"""What a handler's annotation says of the content that it takes."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    Final,
    NamedTuple,
    NewType,
    NotRequired,
    Required,
    TypeVar,
    get_args,
    get_origin,
)

import attrs

from ..exceptions import ImproperlyConfigured


class Argument(NamedTuple):
    """What a class gives a generic base for its first parameter, and the name of the module that says so."""

    annotation: Any
    module: str


def content_annotation(
    handler: Callable[..., Any], place: str, argument: Argument | None = None
) -> Any | None:
    """How ``handler``, a method, annotates its first argument, where that asks for objects; None where it does not.

    It does where it names an attrs class, a dataclass or a TypedDict, alone or within something, as in
    ``list[Note]`` or ``Move | Say``.

    Args:
        argument: what its class says, in brackets behind its base: it stands where the handler itself says nothing.

    Raises:
        ImproperlyConfigured: a name in it is not to be found (yet).
    """
    function = inspect.unwrap(handler)
    annotation = _first_annotation(function)
    if annotation is not inspect.Parameter.empty:
        names, module = getattr(function, "__globals__", {}), getattr(function, "__module__", "?")
        annotation = _resolve(annotation, names, module, place)
    if argument is not None and (annotation is inspect.Parameter.empty or isinstance(annotation, TypeVar)):
        names = vars(sys.modules[argument.module])
        annotation = _resolve(argument.annotation, names, argument.module, place)
    return annotation if _names_class(annotation, set()) else None


def type_argument(cls: type, base: type) -> Argument | None:
    """What ``cls`` gives ``base``, a generic class that it derives from, for its first parameter.

    None where it says nothing, or leaves it to its subclasses to say.
    """
    for each in vars(cls).get("__orig_bases__", cls.__bases__):
        origin = get_origin(each) or each
        if not issubclass(origin, base):  # Generic and Protocol are classes too
            continue
        given = dict(zip(getattr(origin, "__parameters__", ()), get_args(each), strict=False))
        if origin is base:
            found = next((Argument(first, cls.__module__) for first in given.values()), None)
        else:
            found = type_argument(origin, base)
            if found is not None and found.annotation in given:
                found = Argument(given[found.annotation], cls.__module__)
        if found is not None:
            return found
    return None


def _resolve(annotation: Any, names: dict[str, Any], module: str, place: str) -> Any:
    """``annotation`` with the objects that it names, of a module that has ``names``."""
    # Only this annotation: those of other arguments may well name what is imported for the type checker alone.
    holder = types.SimpleNamespace(__annotations__={"content": annotation})
    try:
        return typing.get_type_hints(holder, names, include_extras=True)["content"]
    except NameError as error:
        raise ImproperlyConfigured(
            f"{place}: the annotation {_text(annotation)} can't be understood: {error}. Its names are looked up in the "
            f"module {module} when the class is routed to; define or import them there, "
            "at the top level and not for TYPE_CHECKING only"
        ) from None
    except (SyntaxError, TypeError) as error:
        raise ImproperlyConfigured(f"{place}: the annotation {_text(annotation)} is none: {error}") from None


def _first_annotation(function: Any) -> Any:
    """The annotation of a method's first argument after ``self``, as it was written."""
    try:
        if sys.version_info >= (3, 14):
            import annotationlib

            signature = inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
        else:
            signature = inspect.signature(function)
    except (TypeError, ValueError):
        return inspect.Parameter.empty
    positional = [
        each
        for each in signature.parameters.values()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    return positional[1].annotation if len(positional) > 1 else inspect.Parameter.empty


def _names_class(annotation: Any, seen: set[int]) -> bool:
    annotation = unwrap(annotation)
    if id(annotation) in seen:
        return False
    seen.add(id(annotation))
    base = get_origin(annotation) or annotation
    if isinstance(base, type) and (attrs.has(base) or dataclasses.is_dataclass(base)):
        return True
    return typing.is_typeddict(base) or any(_names_class(each, seen) for each in get_args(annotation))


def unwrap(annotation: Any) -> Any:
    """``annotation`` without ``Annotated``, ``Required``, ``NewType``, ``type`` statements and the like around it."""
    while True:
        base = get_origin(annotation)
        if base in (Annotated, Required, NotRequired, Final):
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif is_alias(annotation):
            annotation = annotation.__value__
        else:
            return annotation


def is_alias(annotation: Any) -> bool:
    """It was made by a ``type`` statement (PEP 695), or as typing_extensions has it for Python 3.11."""
    return type(annotation).__name__ == "TypeAliasType"


def name_of_type(annotation: Any) -> str:
    """A class's name, or the annotation as it is written."""
    return (
        annotation.__name__
        if isinstance(annotation, type) and not get_args(annotation)
        else _text(annotation)
    )


def _text(annotation: Any) -> str:
    if isinstance(annotation, str):
        return repr(annotation)
    if isinstance(annotation, typing.ForwardRef):
        return repr(annotation.__forward_arg__)
    return str(annotation)

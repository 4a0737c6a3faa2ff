"""Typed content: JSON values made into objects of annotated classes, and such objects into JSON values.

cattrs does it; it is imported when the first consumer asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..content import encode_plain, is_plain, plain_of
from ..exceptions import ImproperlyConfigured, InvalidContent
from .annotations import content_annotation, type_argument

if TYPE_CHECKING:
    from cattrs import Converter

    from .scalars import Hook

__all__ = [
    "PLAIN",
    "ContentType",
    "HasConverter",
    "InvalidContent",
    "content_annotation",
    "converts_plain",
    "encode_content",
    "encode_with",
    "make_converter",
    "needs_no_converter",
    "to_plain",
    "type_argument",
]

_default: list[Converter] = []


class HasConverter(Protocol):
    """An application, as far as contents go."""

    @property
    def converter(self) -> Converter: ...

    @property
    def converts_plain(self) -> bool:
        """The converter has something to do with JSON's own types too (:func:`converts_plain`)."""


def make_converter(*, forbid_extra_keys: bool = True, large_integers_as_strings: bool = False) -> Converter:
    """A converter as every :class:`triochan.Application` has one (:mod:`triochan.typed.converter` says what it does).

    Args:
        forbid_extra_keys: refuse an object with a key that its class does not have; False drops it.
        large_integers_as_strings: integers beyond ±(2**53 - 1) are strings of digits in JSON, both ways: JavaScript's
            numbers can't tell them from their neighbours (RFC 8259 section 6).
    """
    from .converter import make_converter

    return make_converter(
        forbid_extra_keys=forbid_extra_keys, large_integers_as_strings=large_integers_as_strings
    )


def converts_plain(converter: Converter) -> bool:
    """``converter`` makes something else of a string, a number, a boolean or None.

    The contents of an application without such hooks are looked at, and where they are plain, encoded as they are.
    """
    return any(
        getattr(converter.get_unstructure_hook(kind), "__name__", "") != "identity" for kind in _SCALARS
    )


_SCALARS = (str, int, float, bool, type(None))
PLAIN = frozenset({dict, list, *_SCALARS})
"""What an encoder of the program's own gets as it is, for it may know what to do with the objects in it."""


def _converter_of(application: HasConverter | None) -> Converter:
    if application is not None:
        return application.converter
    if not _default:
        _default.append(make_converter())
    return _default[0]


def to_plain(content: Any, application: HasConverter | None = None) -> Any:
    """``content`` made of nothing but JSON's own types; the rules are those of :func:`triochan.content.encode_json`.

    Args:
        application: whose converter makes it (:func:`triochan.running.current_application`); None: one without hooks.

    Raises:
        TypeError: neither the converter nor JSON has a form for something in it.
        OverflowError: a Decimal that is not finite, or has too many digits.
        ValueError: two keys of an object are one in JSON.
    """
    if needs_no_converter(content, application):
        return content
    return _unstructured(content, application)


def needs_no_converter(content: Any, application: HasConverter | None) -> bool:
    """``content`` is JSON's own already, and the application's converter has nothing to do with that."""
    return is_plain(content) and not (application is not None and application.converts_plain)


def _unstructured(content: Any, application: HasConverter | None) -> Any:
    try:
        return plain_of(content, _converter_of(application).unstructure)
    except RecursionError:
        raise OverflowError("a value that is nested too deep, or holds itself") from None


def encode_content(content: Any, application: HasConverter | None = None) -> str:
    """``content`` as JSON, with every object in it made into what JSON has a form for.

    Args:
        application: as :func:`to_plain` takes it.

    Raises:
        As :func:`to_plain`, and as :func:`triochan.content.encode_json`.
    """
    # needs_no_converter(), without the call: nearly every message in JSON comes through here
    if not is_plain(content) or (application is not None and application.converts_plain):
        content = _unstructured(content, application)
    return encode_plain(content)


def encode_with(encode: Callable[[Any], str], content: Any, application: HasConverter | None = None) -> str:
    """``encode(content)``, where ``encode`` is the program's own; what it has no form for it gets in plain values.

    Args:
        application: as :func:`to_plain` takes it.

    Raises:
        TypeError: the converter has no form for it either.
    """
    if content.__class__ not in PLAIN:
        return encode(to_plain(content, application))
    try:
        return encode(content)
    except TypeError:
        pass  # there are objects in it, or it is an error of the program's: of that, hear the second one
    return encode(to_plain(content, application))


class ContentType:
    """What a consumer's content is made into.

    Args:
        annotation: an attrs class, a dataclass, a TypedDict, or something made of these.
        place: where it stands, for messages.
    """

    __slots__ = ("_converter", "_hook", "annotation", "place")

    def __init__(self, annotation: Any, place: str) -> None:
        self.annotation = annotation
        self.place = place
        self._converter: Converter | None = None
        self._hook: Hook

    def prepare(self, converter: Converter) -> None:
        """Make the hook, so that mistakes in the annotation are found.

        Raises:
            ImproperlyConfigured: something in it that nothing can be made into.
        """
        from .converter import structure_hook

        self._hook = structure_hook(converter, self.annotation, self.place)
        self._converter = converter

    def structure(self, value: Any, application: HasConverter | None = None) -> Any:
        """``value``, as JSON has it, made into what the annotation says.

        Args:
            application: as :func:`to_plain` takes it.

        Raises:
            InvalidContent: it does not fit.
            ImproperlyConfigured: the annotation itself is wrong.
        """
        converter = _converter_of(application)
        if converter is not self._converter:
            self.prepare(converter)
        try:
            return self._hook(value, self.annotation)
        except ImproperlyConfigured:
            raise
        except Exception as error:  # noqa: BLE001 - hooks, validators and constructors raise what they like
            from .converter import explain

            details = explain(error)
        # Without the error as its cause: cattrs' are trees as deep as the content was.
        raise InvalidContent(details)

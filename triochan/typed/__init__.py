"""Typed content: JSON values made into objects of annotated classes, and such objects into JSON values.

cattrs does it; it is imported when the first consumer asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..exceptions import ImproperlyConfigured, InvalidContent
from .annotations import content_annotation

if TYPE_CHECKING:
    from cattrs import Converter

    from .scalars import Hook

__all__ = [
    "PLAIN",
    "ContentType",
    "HasConverter",
    "InvalidContent",
    "content_annotation",
    "encode_with",
    "make_converter",
    "to_plain",
]

PLAIN = frozenset({dict, list, str, int, float, bool, type(None)})
"""What is encoded as it is, unless there turns out to be an object in it; the attempt costs an object's ``repr``."""

_default: list[Converter] = []


class HasConverter(Protocol):
    """An application, as far as contents go."""

    @property
    def converter(self) -> Converter: ...


def make_converter(*, forbid_extra_keys: bool = True) -> Converter:
    """A converter as every :class:`triochan.Application` has one (:mod:`triochan.typed.converter` says what it does).

    Args:
        forbid_extra_keys: refuse an object with a key that its class does not have; False drops it.
    """
    from .converter import make_converter

    return make_converter(forbid_extra_keys=forbid_extra_keys)


def _converter_of(application: HasConverter | None) -> Converter:
    if application is not None:
        return application.converter
    if not _default:
        _default.append(make_converter())
    return _default[0]


def to_plain(content: Any, application: HasConverter | None = None) -> Any:
    """``content`` with every object in it made into what JSON has a form for; what has none stays as it is.

    Args:
        application: whose converter makes it (:func:`triochan.running.current_application`); None: one without hooks.
    """
    return _converter_of(application).unstructure(content)


def encode_with(encode: Callable[[Any], str], content: Any, application: HasConverter | None = None) -> str:
    """``encode(content)``; where it has no form for something, of the content in plain values.

    Args:
        application: as :func:`to_plain` takes it.

    Raises:
        TypeError: the converter has no form for it either.
    """
    if content.__class__ in PLAIN:
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

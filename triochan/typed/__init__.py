"""Typed content: JSON values made into objects of annotated classes, and such objects into JSON values.

cattrs does it; it is imported when the first consumer asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..exceptions import ImproperlyConfigured, InvalidContent
from .annotations import content_annotation

if TYPE_CHECKING:
    from cattrs import Converter

    from .scalars import Hook

__all__ = [
    "PLAIN",
    "ContentType",
    "InvalidContent",
    "content_annotation",
    "current_converter",
    "encode_with",
    "make_converter",
    "to_plain",
    "using",
]

PLAIN = frozenset({dict, list, str, int, float, bool, type(None)})
"""What is encoded as it is, unless there turns out to be an object in it; the attempt costs an object's ``repr``."""

_source: ContextVar[Callable[[], Converter]] = ContextVar("triochan.converter")
_default: list[Converter] = []


def make_converter(*, forbid_extra_keys: bool = True) -> Converter:
    """A converter as every :class:`triochan.Application` has one (:mod:`triochan.typed.converter` says what it does).

    Args:
        forbid_extra_keys: refuse an object with a key that its class does not have; False drops it.
    """
    from .converter import make_converter

    return make_converter(forbid_extra_keys=forbid_extra_keys)


@contextmanager
def using(source: Callable[[], Converter]) -> Iterator[None]:
    """Within the block, and in tasks started in it, :func:`current_converter` is what ``source`` gives."""
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)


def current_converter() -> Converter:
    """The converter of the application that runs here; one of nobody's where none does."""
    source = _source.get(None)
    if source is not None:
        return source()
    if not _default:
        _default.append(make_converter())
    return _default[0]


def to_plain(content: Any, application: Any = None) -> Any:
    """``content`` with every object in it made into what JSON has a form for; what has none stays as it is.

    Args:
        application: whose converter makes it; None: that of the one that runs.
    """
    converter: Converter = current_converter() if application is None else application.converter
    return converter.unstructure(content)


def encode_with(encode: Callable[[Any], str], content: Any, application: Any = None) -> str:
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

    def structure(self, value: Any, application: Any = None) -> Any:
        """``value``, as JSON has it, made into what the annotation says.

        Args:
            application: whose converter makes it; None: that of the one that runs.

        Raises:
            InvalidContent: it does not fit.
            ImproperlyConfigured: the annotation itself is wrong.
        """
        converter: Converter = current_converter() if application is None else application.converter
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

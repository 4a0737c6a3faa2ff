"""What an ``http.request`` brings: its query, its form, its JSON body.

Each answers a request that is wrong by itself: it raises :class:`triochan.exceptions.HttpError`, which says what was
expected and what came::

    async def search(message):
        words = query(message).get("q", "")

    async def sign_up(message):
        fields, files = await form(message)

    async def move(message):
        move = json_body(message, Move)
"""

from __future__ import annotations

import functools
import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import attrs
import trio

from ..content import InvalidJSON, decode_json
from ..exceptions import HttpError, InvalidContent
from ..headers import values
from ..message import Message
from ..typed import ContentType

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

T = TypeVar("T")

MAX_FIELDS = 1000
MAX_FILES = 100
_HEX = b"0123456789abcdefABCDEF"
_PIECE = 16384
"""Bytes of a form between two checkpoints: a multipart body of line ends is read at some 2 MB a second."""
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_ESCAPED = {b"%c%c" % (high, low): bytes.fromhex(chr(high) + chr(low)) for high in _HEX for low in _HEX}
_MAX_BOUNDARY = 70
"""RFC 2046 section 5.1.1."""
_BOM = b"\xef\xbb\xbf"
_SILENT = logging.Logger("python_multipart", logging.CRITICAL + 1)
"""For the parser, which warns of what it refuses: what a client sends is answered, and fills no log."""


class Fields(Mapping[str, str]):
    """Names and values in their order. As a mapping, the last value of each name."""

    __slots__ = ("_last", "pairs")

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.pairs: list[tuple[str, str]] = list(pairs)
        self._last = dict(self.pairs)

    def __getitem__(self, name: str) -> str:
        return self._last[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def all(self, name: str) -> list[str]:
        """Every value of that name, in their order."""
        return [value for each, value in self.pairs if each == name]

    def __repr__(self) -> str:
        return f"Fields({self.pairs!r})"


@attrs.frozen
class UploadedFile:
    """A file of a form. The body of a request is in memory, at most ``Settings.max_body_size`` of it, and so is this.

    Attributes:
        filename: as the client says: never a path to write to.
        content_type: as the client says.
        content: its bytes.
    """

    filename: str
    content_type: str
    content: bytes = attrs.field(repr=lambda content: f"<{len(content)} bytes>")

    @property
    def file(self) -> io.BytesIO:
        """A file object to read it from, from its beginning."""
        return io.BytesIO(self.content)


class Form(NamedTuple):
    """A form: its fields, and its files by the name of their field; ``files`` as :class:`Fields` has them."""

    fields: Fields
    files: list[tuple[str, UploadedFile]]

    def file(self, name: str) -> UploadedFile | None:
        """The first file of that field; None where there is none.

        A browser sends a field in which nobody has chosen a file as an empty one without a name (HTML, "constructing
        the entry list"): that is none. ``files`` has it.
        """
        found = (file for each, file in self.files if each == name)
        return next((file for file in found if file.filename or file.content), None)


def query(message: Message, *, max_fields: int = MAX_FIELDS) -> Fields:
    """The fields of the query string, percent-decoded (URL Standard: "application/x-www-form-urlencoded").

    Args:
        max_fields: more of them are refused.

    Raises:
        HttpError: 400: more of them, or one that is not UTF-8.
    """
    what = "the query"
    pairs = _pairs(message.own.get("query_string") or b"", what, max_fields)
    return Fields((_text(_unquote(name), what), _text(_unquote(value), what)) for name, value in pairs)


async def form(
    message: Message,
    *,
    max_fields: int = MAX_FIELDS,
    max_files: int = MAX_FILES,
    max_file_size: int | None = None,
) -> Form:
    """The fields and files of a form: ``application/x-www-form-urlencoded`` or ``multipart/form-data`` (RFC 7578).

    A checkpoint for every 16 KiB of the body.

    Args:
        max_fields, max_files: more of them are refused.
        max_file_size: bytes; a larger file is refused. None: ``Settings.max_body_size`` bounds it.

    Raises:
        HttpError: 415: another type of body. 413: a file that is too large. 400: too many of something, a field
            without a name, one that is not UTF-8, or a body that breaks off.
    """
    content_type, options = _content_type(message)
    body = message.own.get("body") or b""
    if content_type == "application/x-www-form-urlencoded":
        return Form(Fields(await _urlencoded(body, "the form", max_fields)), [])
    if content_type != "multipart/form-data":
        raise HttpError(
            415,
            "a form is application/x-www-form-urlencoded or multipart/form-data, not "
            + (content_type or "a body without a Content-Type"),
        )
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise HttpError(
            400,
            f"the boundary of multipart/form-data has 1 to {_MAX_BOUNDARY} characters, not {len(boundary)}",
        )
    parts = _Parts(max_fields, max_files, max_file_size)
    await parts.read(boundary, body)
    return Form(Fields(parts.fields), parts.files)


@overload
def json_body(message: Message) -> Any: ...
@overload
def json_body(message: Message, kind: type[T]) -> T: ...
@overload
def json_body(
    message: Message, kind: object
) -> Any: ...  # a union is no type[T]: the caller says what it gives
def json_body(message: Message, kind: Any = None) -> Any:
    """The JSON value of the body, made into an object where ``kind`` says which.

    A byte order mark is passed over, as RFC 8259 section 8.1 allows; of two members of one name the last one counts.

    Args:
        kind: an attrs class, a dataclass, a TypedDict, or something made of these, as a JSON consumer's content may be
            annotated.

    Raises:
        HttpError: 415: the body is not said to be JSON. 400: it is not JSON, or it does not fit; the text has a line
            for each mistake, its path first.
        ImproperlyConfigured: ``kind`` is nothing that a value can be made into.
    """
    content_type, _ = _content_type(message)
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise HttpError(
            415, f"a body of application/json is expected, not {content_type or 'one without a Content-Type'}"
        )
    body = (message.own.get("body") or b"").removeprefix(_BOM)
    if not body.strip():
        raise HttpError(400, "the body is empty, where JSON is expected")
    try:
        value = decode_json(body.decode())
    except UnicodeDecodeError:
        raise HttpError(400, "the body is not UTF-8, as JSON is") from None
    except InvalidJSON as error:
        raise HttpError(400, f"the body is {error}") from None
    if kind is None:
        return value
    try:
        return _content(kind).structure(value, message.application)
    except InvalidContent as error:
        raise HttpError(400, "\n".join(["the body does not fit:", *error.details])) from None


@functools.lru_cache(maxsize=256)
def _content(kind: Any) -> ContentType:
    return ContentType(kind, "json_body")


def _content_type(message: Message) -> tuple[str, dict[bytes, bytes]]:
    """The type of the body, in lower case, and its parameters; empty where it says none."""
    from python_multipart.multipart import parse_options_header  # with the first request that has a body

    said = values(message.own.get("headers") or [], b"content-type")
    content_type, options = parse_options_header(said[0] if len(said) == 1 else b"")
    return content_type.decode("latin-1"), options


def _pairs(data: bytes, what: str, max_fields: int) -> Iterator[tuple[bytes, bytes]]:
    """Names and values, as they are before their escapes are read."""
    if data.count(b"&") >= max_fields:
        raise HttpError(400, f"{what} has more than {max_fields} fields")
    for pair in data.split(b"&"):
        if pair:
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            yield name, value


async def _urlencoded(data: bytes, what: str, max_fields: int) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    size = 0
    for pair in _pairs(data, what, max_fields):
        texts = []
        for part in pair:
            whole = bytearray()
            for piece in _pieces(part):
                whole += _unquote(piece)
                size += len(piece)
                if size >= _PIECE - 2:  # what a piece has at least, but a field's last one
                    size = 0
                    await trio.lowlevel.checkpoint()
            texts.append(_text(bytes(whole), what))
        fields.append((texts[0], texts[1]))
    return fields


def _pieces(part: bytes) -> Iterator[bytes]:
    """What is long in pieces that cut no escape in two."""
    start = 0
    while start < len(part):
        end = start + _PIECE
        if end < len(part) and (escape := part.rfind(b"%", end - 2, end)) >= 0:
            end = escape
        yield part[start:end]
        start = end


def _unquote(data: bytes) -> bytes:
    """Without its escapes; what is none stays. urllib's takes four times as long where there are many that are none."""
    return _ESCAPE.sub(_unescaped, data) if b"%" in data else data


def _unescaped(found: re.Match[bytes]) -> bytes:
    return _ESCAPED[found[1]]


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise HttpError(400, f"{what} has a field that is not UTF-8: {data[:40]!r}") from None


class _Parts:
    """Collects the parts of a multipart body, as its parser tells of them."""

    def __init__(self, max_fields: int, max_files: int, max_file_size: int | None) -> None:
        self.fields: list[tuple[str, str]] = []
        self.files: list[tuple[str, UploadedFile]] = []
        self._max_fields = max_fields
        self._max_files = max_files
        self._max_file_size = max_file_size
        self._headers: dict[bytes, bytes] = {}
        self._header = self._value = b""
        self._content = bytearray()
        self._name = ""
        self._filename: str | None = None
        self._ended = False

    async def read(self, boundary: bytes, body: bytes) -> None:
        from python_multipart.exceptions import MultipartParseError
        from python_multipart.multipart import MultipartParser

        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._all,
        }
        try:
            parser = MultipartParser(boundary, callbacks)
            parser.logger = _SILENT
            for start in range(0, len(body), _PIECE):
                parser.write(body[start : start + _PIECE])
                await trio.lowlevel.checkpoint()
        except MultipartParseError as error:
            raise HttpError(400, f"the body is no multipart/form-data: {error}") from None
        if not self._ended:
            raise HttpError(400, "the body of multipart/form-data breaks off before its last boundary")

    def _begin(self) -> None:
        self._headers = {}
        self._header = self._value = b""
        self._content = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        from python_multipart.multipart import parse_options_header

        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise HttpError(
                400, 'a part of multipart/form-data has no Content-Disposition: form-data; name="…"'
            )
        self._name = _text(options[b"name"], "the form")
        filename = options.get(b"filename")
        self._filename = None if filename is None else _text(filename, "the form")
        if filename is None and len(self.fields) >= self._max_fields:
            raise HttpError(400, f"the form has more than {self._max_fields} fields")
        if filename is not None and len(self.files) >= self._max_files:
            raise HttpError(400, f"the form has more than {self._max_files} files")

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]
        limit = self._max_file_size
        if limit is not None and self._filename is not None and len(self._content) > limit:
            raise HttpError(413, f"the file {self._filename!r} has more than {limit} bytes")

    def _end(self) -> None:
        content = bytes(self._content)
        if self._filename is None:
            self.fields.append((self._name, _text(content, "the form")))
        else:
            content_type = self._headers.get(b"content-type", b"application/octet-stream").decode("latin-1")
            self.files.append((self._name, UploadedFile(self._filename, content_type, content)))

    def _all(self) -> None:
        self._ended = True

"""Files of a folder, served below a path; no path leads out of the folder."""

from __future__ import annotations

import email.utils
import hashlib
import mimetypes
import os
import re
import stat
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import trio

from ..exceptions import ImproperlyConfigured
from ..headers import members
from ..message import Message
from ..routing import route
from .conditions import NotSatisfiable, precondition, wanted_part
from .refusals import UNMET, refuse, refuse_method

_CHUNK = 256 * 1024
_SETTLED_SECONDS = 2.0
"""How long ago a file has to have changed, for another change to show in its time."""
_COMPRESSED = {
    "bzip2": "application/x-bzip2",
    "compress": "application/x-compress",
    "gzip": "application/gzip",
    "xz": "application/x-xz",
}


_NEIGHBOURS = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}
"""Content codings, the one that is liked most first, and how the names of files in them end."""
_ALIASES = {"x-gzip": "gzip"}
"""RFC 9110 section 8.4.1.3."""
_CODING = re.compile(
    rb"[ \t]*(?P<name>[!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*+(?:;[ \t]*[qQ]=(?P<weight>[01](?:\.[0-9]{0,3})?))?[ \t]*+\Z"
)


class _File(NamedTuple):
    """A file that was found.

    Attributes:
        path: of what is sent.
        status: of it.
        name: by which its kind is told.
        coding: what it is compressed with, on its way; None: nothing.
        varies: another client may be sent another one.
        of_folder: it is the index of the folder that was asked for.
    """

    path: Path
    status: os.stat_result
    name: str
    coding: str | None = None
    varies: bool = False
    of_folder: bool = False


def static_files(
    prefix: str,
    folder: str | os.PathLike[str],
    *,
    index: str = "index.html",
    cache_control: str = "no-cache",
) -> route:
    """A route that serves the files of ``folder`` below the path ``prefix``, e.g. ``static_files("/static/", "web")``.

    GET and HEAD only; ``ETag`` and ``Last-Modified`` let browsers revalidate, and ranges are served one at a time
    (RFC 9110 sections 13 and 14); a compressed file is sent as what it is; names that begin with a dot are not served,
    and a link is followed only where it stays inside the folder.

    Beside ``app.js``, a file ``app.js.br``, ``app.js.zst`` or ``app.js.gz`` that is not older is sent in its place,
    as its content coding, to who accepts that (RFC 9110 section 12.5.3).

    Args:
        index: the file that a folder's own path shows, which ends with a slash; without one, the client is sent to
            that path, for the links of a page are relative to it.
        cache_control: the field of that name: by default a browser asks each time, and is told 304;
            ``"max-age=31536000, immutable"`` is for files whose names change with their contents.

    Raises:
        ImproperlyConfigured: there is no such folder.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise ImproperlyConfigured(f"static_files: {root} is no folder")
    return route(
        "http.request",
        _consumer(root, index, cache_control.encode("ascii")),
        path="^" + path_filter(prefix) + "(?P<name>.*)$",
    )


def path_filter(path: str) -> str:
    """A filter of a route that means ``path`` and nothing else."""
    return "".join(f"\\{each}" if not each.isalnum() and each not in "/_-" else each for each in path)


def _consumer(root: Path, index: str, cache_control: bytes) -> Callable[..., Awaitable[None]]:
    async def static(message: Message, name: str) -> None:
        reply = message.reply_channel
        if message["method"] not in ("GET", "HEAD"):
            await reply.send(refuse_method(message))
            return
        file = await trio.to_thread.run_sync(_find, root, name, index, _accepted(message["headers"]))
        if file is None:
            why = f"there is no file {name!r:.200} in {root} that is to be served"
            await reply.send(refuse(message, 404, "Not Found", why=why))
            return
        if file.of_folder and message["path"] and not message["path"].endswith("/"):
            await reply.send(_to_folder(message))
            return
        await _send_file(message, file, cache_control)

    static.__qualname__ = static_files.__qualname__  # what a table of routes and the log call it
    return static


def _to_folder(message: Message) -> dict[str, Any]:
    """A redirect to the path with a slash behind it: a relative one, which is right whatever path a proxy has taken
    away."""
    target = f"./{quote(message['path'].rpartition('/')[2], safe='')}/"
    asked = message.get("query_string") or b""
    location = target.encode("ascii") + (b"?" + asked if asked else b"")
    return {"status": 307, "headers": [(b"Location", location)]}


def _find(root: Path, name: str, index: str, accepted: list[str]) -> _File | None:
    """The file that ``name`` means, or its neighbour in a coding that is accepted; None where there is none, or none
    that may be served."""
    parts = name.split("/")
    if "\0" in name or "\\" in name or any(part.startswith(".") for part in parts):
        return None
    try:
        path = root.joinpath(*(part for part in parts if part)).resolve(strict=True)
        if of_folder := path.is_dir():
            path = (path / index).resolve(strict=True)
        elif name.endswith("/"):
            return None
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        return None
    status = _status(root, path)
    if status is None:
        return None
    neighbours = {
        coding: found
        for coding, suffix in _NEIGHBOURS.items()
        if (found := _neighbour(root, path.with_name(path.name + suffix), status)) is not None
    }
    for coding in accepted:
        if coding in neighbours:
            return _File(*neighbours[coding], path.name, coding, True, of_folder)
    return _File(path, status, path.name, None, bool(neighbours), of_folder)


def _neighbour(root: Path, path: Path, original: os.stat_result) -> tuple[Path, os.stat_result] | None:
    try:
        path = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    status = _status(root, path)
    # One that is older was made of another content.
    return (path, status) if status is not None and status.st_mtime_ns >= original.st_mtime_ns else None


def _status(root: Path, path: Path) -> os.stat_result | None:
    """Of a file, its links resolved, that may be served; None: it may not, or there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status if path.is_relative_to(root) and stat.S_ISREG(status.st_mode) else None


def _accepted(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The codings of :data:`_NEIGHBOURS` that a client takes, and likes no less than none (``identity``), the one that
    it likes most first."""
    weights: dict[str, float] = {}
    for member in members(headers, b"accept-encoding"):
        found = _CODING.match(member)
        if found is not None:
            name = found["name"].decode("ascii")
            weights[_ALIASES.get(name, name)] = float(found["weight"] or 1)
    rest = weights.get("*", 0)
    liked = {coding: weights.get(coding, rest) for coding in _NEIGHBOURS}
    least = weights.get("identity", 0)
    return sorted((each for each in liked if 0 < liked[each] >= least), key=lambda each: -liked[each])


def _kind(name: str) -> bytes:
    """The media type of a file's name. What is compressed is sent as that, never as a coding that a browser undoes."""
    kind, compression = mimetypes.guess_type(name)
    if compression is not None:
        kind = _COMPRESSED.get(compression)
    if kind is None:
        return b"application/octet-stream"
    if kind.startswith("text/") or kind in ("application/javascript", "application/json"):
        kind += "; charset=utf-8"
    return kind.encode("ascii")


def _etag(status: os.stat_result, coding: str | None, now: float) -> bytes:
    """Of a file's size and time, another one in each coding (RFC 9110 section 8.8.3.3); a weak one while the file may
    change again without either (section 8.8.1)."""
    said = f"{status.st_mtime_ns}-{status.st_size}{f'-{coding}' if coding else ''}"
    digest = hashlib.blake2b(said.encode(), digest_size=8)
    weak = status.st_mtime > now - _SETTLED_SECONDS
    return f'{"W/" if weak else ""}"{digest.hexdigest()}"'.encode("ascii")


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


async def _send_file(message: Message, found: _File, cache_control: bytes) -> None:
    now = time.time()
    path, status = found.path, found.status
    etag = _etag(status, found.coding, now)
    modified = int(min(status.st_mtime, now))
    headers: list[tuple[bytes, bytes]] = [
        (b"Content-Type", _kind(found.name)),
        (b"ETag", etag),
        (b"Last-Modified", email.utils.formatdate(modified, usegmt=True).encode("ascii")),
        (b"Cache-Control", cache_control),
        (b"Accept-Ranges", b"bytes"),
        (b"X-Content-Type-Options", b"nosniff"),
    ]
    if found.coding is not None:
        headers.append((b"Content-Encoding", found.coding.encode("ascii")))
    if found.varies:
        headers.append((b"Vary", b"Accept-Encoding"))
    reply = message.reply_channel
    unmet = precondition(message["headers"], etag, modified)
    if unmet == 304:
        await reply.send({"status": 304, "headers": headers})
        return
    if unmet is not None:
        await reply.send(refuse(message, unmet, "Precondition Failed", why=UNMET))
        return
    size = status.st_size
    part = wanted_part(message["headers"], etag, size) if message["method"] == "GET" else None
    if isinstance(part, NotSatisfiable):
        why = f"the range begins behind the end of {size} bytes"
        length = {"Content-Range": f"bytes */{size}"}
        await reply.send(refuse(message, 416, "Range Not Satisfiable", length, why=why))
        return
    code = 200
    start = 0
    remaining = size
    if part is not None:
        code = 206
        start, remaining = part
        said = f"bytes {start}-{start + remaining - 1}/{size}"
        headers.append((b"Content-Range", said.encode("ascii")))
    headers.append((b"Content-Length", b"%d" % remaining))
    first: dict[str, Any] = {"status": code, "headers": headers}
    if message["method"] == "HEAD" or not remaining:
        await reply.send(first)
        return
    try:
        opened = await trio.open_file(path, "rb")
    except OSError as error:  # gone since it was found, or not for this user to read
        await reply.send(refuse(message, 404, "Not Found", why=f"{path}: {error.strerror}"))
        return
    async with opened as file:
        opened_status = os.fstat(file.fileno())
        if _version(opened_status) != _version(
            status
        ):  # another was put in its place: that one's length and ETag
            await _send_file(message, found._replace(status=opened_status), cache_control)
            return
        if start:
            await file.seek(start)
        while remaining:
            piece = await file.read(min(_CHUNK, remaining))
            if not piece:
                raise OSError(f"{path} became shorter while it was sent")
            remaining -= len(piece)
            await reply.send({**first, "content": piece, "more_content": remaining > 0})
            first = {}

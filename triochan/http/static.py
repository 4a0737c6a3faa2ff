"""Files of a folder, served below a path; no path leads out of the folder."""

from __future__ import annotations

import email.utils
import hashlib
import mimetypes
import os
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from ..exceptions import ImproperlyConfigured
from ..message import Message
from ..routing import route
from .conditions import NotSatisfiable, precondition, wanted_part
from .responses import text

_CHUNK = 256 * 1024
_SETTLED_SECONDS = 2.0
"""How long ago a file has to have changed, for another change to show in its time."""
_COMPRESSED = {
    "bzip2": "application/x-bzip2",
    "compress": "application/x-compress",
    "gzip": "application/gzip",
    "xz": "application/x-xz",
}


def static_files(prefix: str, folder: str | os.PathLike[str], *, index: str = "index.html") -> route:
    """A route that serves the files of ``folder`` below the path ``prefix``, e.g. ``static_files("/static/", "web")``.

    GET and HEAD only; ``ETag`` and ``Last-Modified`` let browsers revalidate, and ranges are served one at a time
    (RFC 9110 sections 13 and 14); a compressed file is sent as what it is; names that begin with a dot are not served,
    and a link is followed only where it stays inside the folder.

    Args:
        index: the file that a folder's own path shows.

    Raises:
        ImproperlyConfigured: there is no such folder.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise ImproperlyConfigured(f"static_files: {root} is no folder")
    return route("http.request", _consumer(root, index), path="^" + path_filter(prefix) + "(?P<name>.*)$")


def path_filter(path: str) -> str:
    """A filter of a route that means ``path`` and nothing else."""
    return "".join(f"\\{each}" if not each.isalnum() and each not in "/_-" else each for each in path)


def _consumer(root: Path, index: str) -> Callable[..., Awaitable[None]]:
    async def static(message: Message, name: str) -> None:
        reply = message.reply_channel
        if message["method"] not in ("GET", "HEAD"):
            await reply.send(text("Method Not Allowed\n", 405, {"Allow": "GET, HEAD"}))
            return
        path = await trio.to_thread.run_sync(_find, root, name, index)
        if path is None:
            await reply.send(text("Not Found\n", 404))
            return
        await _send_file(message, *path)

    return static


def _find(root: Path, name: str, index: str) -> tuple[Path, os.stat_result] | None:
    """The file that ``name`` means, with its status; None where there is none, or none that may be served."""
    parts = name.split("/")
    if "\0" in name or "\\" in name or any(part.startswith(".") for part in parts):
        return None
    try:
        path = root.joinpath(*(part for part in parts if part)).resolve(strict=True)
        if path.is_dir():
            path = (path / index).resolve(strict=True)
        elif name.endswith("/"):
            return None
        status = path.stat()
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        return None
    if not path.is_relative_to(root) or not stat.S_ISREG(status.st_mode):
        return None
    return path, status


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


def _etag(status: os.stat_result, now: float) -> bytes:
    """Of a file's size and time; a weak one while the file may change again without either (RFC 9110 section 8.8.1)."""
    digest = hashlib.blake2b(f"{status.st_mtime_ns}-{status.st_size}".encode(), digest_size=8)
    weak = status.st_mtime > now - _SETTLED_SECONDS
    return f'{"W/" if weak else ""}"{digest.hexdigest()}"'.encode("ascii")


async def _send_file(message: Message, path: Path, status: os.stat_result) -> None:
    now = time.time()
    etag = _etag(status, now)
    modified = int(min(status.st_mtime, now))
    headers: list[tuple[bytes, bytes]] = [
        (b"Content-Type", _kind(path.name)),
        (b"ETag", etag),
        (b"Last-Modified", email.utils.formatdate(modified, usegmt=True).encode("ascii")),
        (b"Cache-Control", b"no-cache"),
        (b"Accept-Ranges", b"bytes"),
        (b"X-Content-Type-Options", b"nosniff"),
    ]
    reply = message.reply_channel
    unmet = precondition(message["headers"], etag, modified)
    if unmet == 304:
        await reply.send({"status": 304, "headers": headers})
        return
    if unmet is not None:
        await reply.send(text("Precondition Failed\n", unmet))
        return
    size = status.st_size
    part = wanted_part(message["headers"], etag, size) if message["method"] == "GET" else None
    if isinstance(part, NotSatisfiable):
        await reply.send(text("Range Not Satisfiable\n", 416, {"Content-Range": f"bytes */{size}"}))
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
    except OSError:  # gone since it was found, or not for this user to read
        await reply.send(text("Not Found\n", 404))
        return
    async with opened as file:
        if start:
            await file.seek(start)
        while remaining:
            piece = await file.read(min(_CHUNK, remaining))
            if not piece:
                raise OSError(f"{path} became shorter while it was sent")
            remaining -= len(piece)
            await reply.send({**first, "content": piece, "more_content": remaining > 0})
            first = {}

"""Files of a folder, served below a path; no path leads out of the folder."""

from __future__ import annotations

import email.utils
import hashlib
import mimetypes
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from ..exceptions import ImproperlyConfigured
from ..message import Message
from ..routing import route
from .responses import text

_CHUNK = 256 * 1024


def static_files(prefix: str, folder: str | os.PathLike[str], *, index: str = "index.html") -> route:
    """A route that serves the files of ``folder`` below the path ``prefix``, e.g. ``static_files("/static/", "web")``.

    GET and HEAD only; ``ETag`` and ``Last-Modified`` let browsers revalidate; names that begin with a dot are
    not served, and a link is followed only where it stays inside the folder.

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


def is_known(message: Message, etag: bytes) -> bool:
    """The client has what the ``ETag`` names (RFC 9110 section 13.1.2)."""
    known = [value for name, value in message["headers"] if name == b"if-none-match"]
    return any(
        each.strip().removeprefix(b"W/") in (etag, b"*") for value in known for each in value.split(b",")
    )


async def _send_file(message: Message, path: Path, status: os.stat_result) -> None:
    digest = hashlib.blake2b(f"{status.st_mtime_ns}-{status.st_size}".encode(), digest_size=8)
    etag = f'"{digest.hexdigest()}"'.encode()
    kind, encoding = mimetypes.guess_type(path.name)
    kind = kind or "application/octet-stream"
    if kind.startswith("text/") or kind in ("application/javascript", "application/json"):
        kind += "; charset=utf-8"
    headers: list[tuple[bytes, bytes]] = [
        (b"Content-Type", kind.encode()),
        (b"ETag", etag),
        (b"Last-Modified", email.utils.formatdate(status.st_mtime, usegmt=True).encode()),
        (b"Cache-Control", b"no-cache"),
        (b"X-Content-Type-Options", b"nosniff"),
    ]
    if encoding is not None:
        headers.append((b"Content-Encoding", encoding.encode()))
    reply = message.reply_channel
    if is_known(message, etag):
        await reply.send({"status": 304, "headers": headers})
        return
    headers.append((b"Content-Length", str(status.st_size).encode()))
    first: dict[str, Any] = {"status": 200, "headers": headers}
    if message["method"] == "HEAD" or status.st_size == 0:
        await reply.send(first)
        return
    remaining = status.st_size
    try:
        opened = await trio.open_file(path, "rb")
    except OSError:  # gone since it was found, or not for this user to read
        await reply.send(text("Not Found\n", 404))
        return
    async with opened as file:
        while remaining:
            piece = await file.read(min(_CHUNK, remaining))
            if not piece:
                raise OSError(f"{path} became shorter while it was sent")
            remaining -= len(piece)
            await reply.send({**first, "content": piece, "more_content": remaining > 0})
            first = {}

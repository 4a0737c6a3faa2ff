"""The browser client, served from the package."""

from __future__ import annotations

import hashlib
from importlib import resources

from ..log_lines import say_refused
from ..message import Message
from ..routing import route
from .conditions import precondition
from .refusals import UNMET, logger, refuse_method
from .static import path_filter


def client_route(path: str = "/triochan/client.js") -> route:
    """A route that serves the browser client, ``triochan.js``, to pages that import it (docs/client.md).

    GET and HEAD only; browsers revalidate it by its ``ETag``, so that a new version is taken at once. It is read when
    the route is made.

    Args:
        path: where.
    """
    source = (resources.files("triochan") / "client" / "triochan.js").read_bytes()
    etag = f'"{hashlib.blake2b(source, digest_size=8).hexdigest()}"'.encode()
    headers: list[tuple[bytes, bytes]] = [
        (b"Content-Type", b"text/javascript; charset=utf-8"),
        (b"ETag", etag),
        (b"Cache-Control", b"no-cache"),
        (b"X-Content-Type-Options", b"nosniff"),
    ]
    length = (b"Content-Length", str(len(source)).encode())

    async def client(message: Message) -> None:
        reply = message.reply_channel
        if message["method"] not in ("GET", "HEAD"):
            await reply.send(refuse_method(message))
        elif unmet := precondition(message["headers"], etag):
            if unmet == 412:
                say_refused(logger, unmet, message, UNMET)
            await reply.send({"status": unmet, "headers": headers})
        else:
            content = source if message["method"] == "GET" else b""
            await reply.send({"status": 200, "headers": [*headers, length], "content": content})

    client.__qualname__ = client_route.__qualname__  # what a table of routes and the log call it
    return route("http.request", client, path=f"^{path_filter(path)}$")

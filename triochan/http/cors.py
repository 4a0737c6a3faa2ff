"""Pages of other origins that may read responses (Fetch Standard: "CORS protocol")."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from ..exceptions import ImproperlyConfigured
from ..headers import check_headers, is_token, members
from ..log_lines import say_refused
from ..message import Message
from ..origins import AllowedOrigins, values_of
from .refusals import logger
from .responses import text

SAFE = ("GET", "HEAD", "POST")
"""Methods that a page may use without asking first (Fetch Standard: "CORS-safelisted method")."""
SAFE_HEADERS = ("accept", "accept-language", "content-language", "content-type")
"""Headers that any page may set to the usual values (Fetch Standard: "CORS-safelisted request-header"); for others,
such as ``Content-Type: application/json``, it asks."""
_METHODS = (*SAFE, "PUT", "PATCH", "DELETE", "OPTIONS")
_ASKED = (b"Vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
_SINGLE = (b"access-control-allow-origin", b"access-control-allow-credentials")
"""Of which browsers take one, and refuse the response where there are two."""


def before_response(message: Message, hook: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
    """Let ``hook`` see the first piece of the response to an ``http.request``, and return it with what has to be in it.

    It is awaited once, whether the consumer returns its response or sends it; hooks are awaited in their order. An
    answer of the server's own, such as 500 for a consumer that has raised, goes past it.

    Raises:
        ValueError: the message is no request that waits for its answer here, or the answer has begun.
    """
    endpoint = getattr(message.reply_channel, "endpoint", None)
    hooks = getattr(endpoint, "on_start", None)
    if not isinstance(hooks, list) or getattr(endpoint, "started", True):
        raise ValueError(f"{message!r} is no http.request whose response is still to come")
    hooks.append(hook)


def cors(
    origins: Iterable[str],
    *,
    methods: Iterable[str] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
    headers: Iterable[str] = (),
    expose: Iterable[str] = (),
    credentials: bool = False,
    max_age: int = 600,
) -> Callable[[Message, Any], Awaitable[object]]:
    """A middleware that lets pages of other origins read responses: ``Application(…, middleware=[cors(["https://…"])])``.

    It answers their preflights itself. It says nothing of WebSockets: those are ``Application(allowed_origins=…)``.

    Args:
        origins: ``"https://example.com"``, ``"https://*.example.com"`` for the hosts below it, ``"*"`` for any page.
        methods: that they may use; ``"*"`` for all.
        headers: of requests that they may set, beside Accept, Accept-Language, Content-Language and Content-Type;
            ``"*"`` for all.
        expose: headers of responses that their scripts may read, beside those that any script may; ``"*"`` for all,
            where there are no credentials.
        credentials: they may send cookies, and read what is answered to these.
        max_age: seconds for which a browser remembers a preflight's answer; 0: it does not.

    Raises:
        ImproperlyConfigured: something that is no origin, method, header or number of seconds; credentials for any page
            (``"*"`` and ``"null"``), which would let every page act for its visitors; or ``expose=["*"]`` beside
            them, which browsers take for the name of a header.
    """
    allowed = AllowedOrigins(origins)
    methods, headers, expose = map(_names, (methods, headers, expose), ("methods", "headers", "expose"))
    if credentials and allowed.allows_text("null"):
        which = "*" if allowed.any else "null"  # which any page is, in a sandboxed frame of its own
        raise ImproperlyConfigured(
            f"cors(['{which}'], credentials=True) lets every page act for its visitors; name the origins that may"
        )
    if credentials and "*" in expose:
        raise ImproperlyConfigured(
            "cors(expose=['*'], credentials=True): browsers expose nothing for '*' beside credentials; name the headers"
        )
    for each in methods:
        if each not in _METHODS and each.upper() in _METHODS:
            raise ImproperlyConfigured(f"cors: methods are in capitals, {each.upper()!r} and not {each!r}")
    if isinstance(max_age, bool) or not isinstance(max_age, int) or max_age < 0:
        raise ImproperlyConfigured(f"cors: max_age is a whole number of seconds, 0 or more, not {max_age!r}")
    any_method, any_header = "*" in methods, "*" in headers
    lower = {*SAFE_HEADERS, *(each.lower() for each in headers)}

    def allow(origin: bytes) -> list[tuple[bytes, bytes]]:
        if allowed.any:
            return [(b"Access-Control-Allow-Origin", b"*")]
        pairs = [(b"Access-Control-Allow-Origin", origin)]
        return [*pairs, (b"Access-Control-Allow-Credentials", b"true")] if credentials else pairs

    def refuse(message: Message, said: str, why: str) -> dict[str, Any]:
        say_refused(logger, 403, message, f"cors: {why}")
        return text(said + "\n", 403, [_ASKED])

    def preflight(message: Message, origin: bytes, method: str) -> dict[str, Any]:
        asked = [
            each.decode("latin-1") for each in members(message["headers"], b"access-control-request-headers")
        ]
        if not any_method and method not in methods and method not in SAFE:
            why = f"the method {method!r:.100} is none of {', '.join(methods)}"
            return refuse(message, f"pages of other origins may not use {method:.100}", why)
        refused = [] if any_header else [each for each in asked if each not in lower]
        if refused:
            fields = ", ".join(refused)
            why = f"the fields {fields!r:.200} are none of {', '.join(sorted(lower))}"
            return refuse(message, f"pages of other origins may not send {fields:.200}", why)
        # Beside credentials "*" would be a name; so what was asked for is said.
        said = [
            *allow(origin),
            _ASKED,
            (
                b"Access-Control-Allow-Methods",
                (method if any_method else ", ".join(methods)).encode("latin-1"),
            ),
            (b"Access-Control-Max-Age", b"%d" % max_age),
        ]
        if asked:
            said.append((b"Access-Control-Allow-Headers", ", ".join(asked).encode("latin-1")))
        return {"status": 204, "headers": said}

    async def middleware(message: Message, handler: Callable[[Message], Awaitable[object]]) -> object:
        if message.channel.name != "http.request":
            return await handler(message)
        said = values_of(message["headers"], b"origin")
        ours = allowed.any or (len(said) == 1 and allowed.allows_text(said[0].decode("latin-1")))
        wanted = values_of(message["headers"], b"access-control-request-method")
        if said and wanted and message["method"] == "OPTIONS":
            if not ours:
                page = said[0].decode("latin-1")
                why = f"the origin {page!r:.200} is not allowed"
                return refuse(message, f"pages of {page:.200} may not use this", why)
            return preflight(message, said[0], wanted[0].decode("latin-1"))

        async def add(content: dict[str, Any]) -> dict[str, Any]:
            own = check_headers(content.get("headers") or ())
            # What is for any page is the same for who says no origin: a cache may have it from one for the other.
            more: list[tuple[bytes, bytes]] = [] if allowed.any else [(b"Vary", b"Origin")]
            if allowed.any or (said and ours):
                own = [pair for pair in own if pair[0].lower() not in _SINGLE]
                more = [*allow(said[0] if said else b""), *more]
                if expose:
                    more.append((b"Access-Control-Expose-Headers", ", ".join(expose).encode()))
            return {**content, "headers": [*own, *more]}

        before_response(message, add)
        return await handler(message)

    return middleware


def _names(names: Iterable[str], what: str) -> list[str]:
    found = [names] if isinstance(names, str) else list(names)
    for each in found:
        if isinstance(names, str) or not (isinstance(each, str) and is_token(each.encode())):
            raise ImproperlyConfigured(f"cors: {what} is a list of names, not {names!r:.100}")
    return found

"""A session: a mapping of JSON values that is kept between messages."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Iterator, MutableMapping
from typing import Any

from ..content import InvalidJSON, decode_json, encode_json
from ..exceptions import SessionCookieUnavailable, SessionNotSerializable
from .store import SessionStore

logger = logging.getLogger("triochan.sessions")

KEY_BYTES = 24
"""Of randomness in a session key: 192 bits, 32 characters."""
_DEEPEST = 50


class Session(MutableMapping[str, Any]):
    """A mapping of strings to JSON values: None, bool, numbers, strings, lists and dicts of them.

    The decorators of :mod:`triochan.sessions` make it, and save it after the handler where it was modified, also
    within its values. An anonymous session, one without a key, gets a key with its first save; until it holds
    something nothing is stored.

    Args:
        store: where it is kept; None: nowhere, it lives as long as the object.
        lifetime: seconds from a save to its end.
        key: its key; None: anonymous.
        text: what the store had under ``key``; None: nothing.
        fixed: the key is its own for good: :meth:`flush` leaves it, :meth:`cycle_key` is refused.
        no_new_key: why it can't get a new key; None: it can.
    """

    __slots__ = (
        "_data",
        "_dead",
        "_fixed",
        "_held",
        "_key",
        "_lifetime",
        "_modified",
        "_store",
        "_text",
        "no_new_key",
    )

    def __init__(
        self,
        store: SessionStore | None,
        lifetime: float,
        key: str | None = None,
        text: str | None = None,
        *,
        fixed: bool = False,
        no_new_key: str | None = None,
    ) -> None:
        self._store = store
        self._lifetime = lifetime
        self._key = key
        self._held = text is not None
        self._text = "{}" if text is None else text
        self._data: dict[str, Any] = {} if text is None else _decode(text)
        self._dead: list[str] = []
        self._fixed = fixed
        self._modified = False
        self.no_new_key = no_new_key

    # -- the mapping

    def __getitem__(self, name: str) -> Any:
        return self._data[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a session's names are strings, not {name!r}")
        _check_plain(f"session[{name!r}]", value)
        if self._key is None:
            self._check_new_key()
        self._data[name] = value
        self._modified = True

    def __delitem__(self, name: str) -> None:
        del self._data[name]
        self._modified = True

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:  # neither the key nor the values: both are secrets, and logs are read by many
        return f"<Session {'anonymous' if self._key is None else 'kept'}: {', '.join(self._data) or 'empty'}>"

    # -- what Django's sessions have

    @property
    def session_key(self) -> str | None:
        """The key, a secret; None while the session is anonymous."""
        return self._key

    @property
    def modified(self) -> bool:
        """Something has changed since it was loaded or saved; set it to True to have it saved anyway."""
        if self._store is None:
            return False
        if self._modified or self._dead:
            return True
        try:
            return self._encode() != self._text
        except SessionNotSerializable:
            return True  # saving it will say what is wrong

    @modified.setter
    def modified(self, value: bool) -> None:
        self._modified = value

    def is_empty(self) -> bool:
        return not self._data

    def cycle_key(self) -> None:
        """Go on with the same values under a new key; the old one is worth nothing from the next save on.

        Raises:
            SessionCookieUnavailable: the client could not be told the new key.
        """
        if self._fixed:
            raise SessionCookieUnavailable("a channel session has its connection's key, and no other")
        self._check_new_key()
        if self._key is not None and self._held:
            self._dead.append(self._key)
        self._key = None
        self._held = False
        self._modified = True

    async def flush(self) -> None:
        """End the session now: its values are gone, its key is worth nothing. What follows is anonymous."""
        dead, self._dead = self._dead, []
        if self._key is not None and self._held:
            dead.append(self._key)
        self._data.clear()
        if not self._fixed:
            self._key = None
        self._held = False
        self._text = "{}"
        self._modified = False
        if self._store is not None:
            for key in dead:
                await self._store.delete(key)

    async def save(self) -> None:
        """Keep it as it is now. One that was ended meanwhile, in another handler, stays so, and is empty from now on.

        Raises:
            SessionNotSerializable: a value that JSON has no form for.
            SessionCookieUnavailable: it is new, and the client could not be told its key.
            SessionStoreUnavailable: the store does not answer; the session counts as modified still.
        """
        if self._store is None:
            return
        text = self._encode()
        dead, self._dead = self._dead, []
        self._text, self._modified = text, False
        try:
            if self._held or self._data:
                if self._key is None:
                    self._check_new_key()
                    self._key = secrets.token_urlsafe(KEY_BYTES)
                if await self._store.save(self._key, text, self._lifetime, new=not self._held):
                    self._held = True
                else:
                    logger.info("a session was ended while a handler changed it: the changes are dropped")
                    await self.flush()
            while dead:
                await self._store.delete(dead[-1])
                dead.pop()
        except BaseException:
            self._dead += dead
            self._modified = True
            raise

    def _check_new_key(self) -> None:
        if self.no_new_key is not None:
            raise SessionCookieUnavailable(self.no_new_key)

    def _encode(self) -> str:
        for name, value in self._data.items():
            _check_plain(f"session[{name!r}]", value)
        return encode_json(self._data)


def _decode(text: str) -> dict[str, Any]:
    try:
        data = decode_json(text)
    except InvalidJSON:
        data = None
    if isinstance(data, dict):
        return data
    logger.error("a stored session is no JSON object: it is taken for an empty one")
    return {}


def _check_plain(place: str, value: Any) -> None:
    """``value`` comes out of JSON as it went in (a tuple as a list).

    Raises:
        SessionNotSerializable: it does not; the message says where.
    """
    remaining = [(place, value, 0)]
    while remaining:
        place, value, depth = remaining.pop()
        if value is None or isinstance(value, (bool, str)):
            if isinstance(value, str) and not value.isascii():
                try:
                    value.encode()
                except UnicodeEncodeError:
                    raise SessionNotSerializable(
                        f"{place} holds a lone surrogate, which is no text"
                    ) from None
        elif isinstance(value, int):
            if not -(2**63) <= value < 2**63:
                raise SessionNotSerializable(f"{place} is an integer beyond 64 bits; keep it as a string")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise SessionNotSerializable(f"{place} is {value}, which JSON has no form for")
        elif isinstance(value, (list, tuple, dict)):
            if depth == _DEEPEST:
                raise SessionNotSerializable(f"{place[:60]}… is {_DEEPEST} levels deep, or holds itself")
            if isinstance(value, dict):
                for name, each in value.items():
                    if not isinstance(name, str):
                        raise SessionNotSerializable(
                            f"{place} is a dict with the key {name!r}; JSON has string keys"
                        )
                    remaining.append((f"{place}[{name!r}]", each, depth + 1))
            else:
                remaining.extend((f"{place}[{index}]", each, depth + 1) for index, each in enumerate(value))
        else:
            raise SessionNotSerializable(
                f"{place} is a {type(value).__name__}; a session holds None, bool, numbers, strings, lists and dicts"
            )

"""A session: a mapping of JSON values that is kept between messages."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Set
from enum import Enum
from typing import Any

from ..content import InvalidJSON, decode_json, encode_json
from ..exceptions import SessionCookieUnavailable, SessionNotSerializable, SessionStoreUnavailable
from .store import SessionStore

logger = logging.getLogger("triochan.sessions")

KEY_BYTES = 24
"""Of randomness in a session key: 192 bits, 32 characters."""
_DEEPEST = 50
_MERGES = 100
"""Attempts to save what others keep changing. Of each that fails, somebody else's has succeeded."""


class Ended(Enum):
    """What has become of a session key that is worth nothing any more."""

    LOGGED_OUT = "logged out"
    FLUSHED = "the session has ended"
    CYCLED = "the session has a new key"


OnEnd = Callable[[str, Ended], Awaitable[None]]
"""Told of a key of which nothing is held any more."""


class Session(MutableMapping[str, Any]):
    """A mapping of strings to JSON values: None, bool, numbers, strings, lists and dicts of them.

    The decorators of :mod:`triochan.sessions` make it, and save it after the handler where it was modified, also
    within its values. An anonymous session, one without a key, gets a key with its first save; until it holds
    something nothing is stored.

    Handlers that change one session at the same time lose nothing of each other's: a save stores the names that were
    set, deleted or changed since the load, and takes the others as they are by now. Of two that change one name, the
    last to save wins, with its whole value.

    Args:
        store: where it is kept; None: nowhere, it lives as long as the object.
        lifetime: seconds from a save to its end.
        key: its key; None: anonymous.
        text: what the store had under ``key``; None: nothing.
        fixed: the key is its own for good: :meth:`flush` leaves it, :meth:`cycle_key` is refused.
        no_new_key: why it can't get a new key; None: it can.
        on_end: awaited for each key that this session has ended.

    Attributes:
        saved: something of it was saved.
        signed_ago: seconds since the cookie that it was found by was signed.
        ended_elsewhere: it was ended, or was over, when a handler wanted to save it.
    """

    __slots__ = (
        "_data",
        "_dead",
        "_fixed",
        "_held",
        "_key",
        "_lifetime",
        "_modified",
        "_on_end",
        "_over",
        "_store",
        "_text",
        "_touched",
        "_waits_to_tell",
        "ended_elsewhere",
        "no_new_key",
        "saved",
        "signed_ago",
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
        on_end: OnEnd | None = None,
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
        self._touched: set[str] = set()
        self._on_end = on_end
        self._over: list[tuple[str, Ended]] = []
        self._waits_to_tell = False
        self.saved = False
        self.signed_ago = 0.0
        self.ended_elsewhere = False
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
        self._touched.add(name)
        self._modified = True

    def __delitem__(self, name: str) -> None:
        del self._data[name]
        self._touched.add(name)
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
    def kept(self) -> bool:
        """A store keeps it, or would."""
        return self._store is not None

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
        """End the session now: its values are gone, its key is worth nothing. What follows is anonymous.

        WebSockets that were opened with it are closed with 3000, when the handler that has ended it has returned.
        """
        await self.end(Ended.FLUSHED)

    async def end(self, how: Ended) -> None:
        """:meth:`flush`, and the sockets that live on the session are told how."""
        dead, self._dead = self._dead, []
        if self._key is not None and self._held:
            dead.append(self._key)
        self._forget()
        if self._store is not None:
            for key in dead:
                await self._delete(key, how)

    async def save(self) -> None:
        """Keep what has changed. One that was ended meanwhile, in another handler, stays so, and is empty from now on.

        Raises:
            SessionNotSerializable: a value that JSON has no form for.
            SessionCookieUnavailable: it is new, and the client could not be told its key.
            SessionStoreUnavailable: the store does not answer; the session counts as modified still.
        """
        if self._store is None:
            return
        text = self._encode()
        base, self._text = self._text, text
        dead, self._dead = self._dead, []
        touched, self._touched = self._touched, set()
        self._modified = False
        stored = False
        try:
            if self._held or self._data:
                if self._key is None:
                    self._check_new_key()
                    kept = await self._goes_on(dead[-1], base, text, touched) if dead else text
                    self._key = secrets.token_urlsafe(KEY_BYTES)
                else:
                    kept = text
                result = await self._keep(self._store, self._key, base, kept, touched)
                stored = True
                if result is None:
                    logger.info("a session was ended while a handler changed it: the changes are dropped")
                    self.lose()
                else:
                    self._held = self.saved = True
                    self._text = text
                    if result != text:
                        self._adopt(result)
            while dead:
                await self._delete(dead[-1], Ended.CYCLED)
                dead.pop()
        except BaseException:
            self._dead += dead
            self._modified = True
            if not stored:
                self._touched |= touched
                self._text = base
            raise

    async def _keep(
        self, store: SessionStore, key: str, base: str, text: str, touched: Set[str]
    ) -> str | None:
        """Store the values; what is stored in the end, together with what others have stored since the load.

        None: the session is over.
        """
        if not self._held and not self._fixed:
            await store.save(key, text, self._lifetime, new=True)
            return text
        if await store.replace(key, base if self._held else None, text, self._lifetime):
            return text
        # One after the other: else many that save at once would fail as often as they are many.
        async with store.alone("merge", key):
            for _ in range(_MERGES):
                current = await store.load(key)
                if current is None and self._held:
                    return None
                merged = text if current is None else _merged(base, text, current, touched)
                if await store.replace(key, current, merged, self._lifetime):
                    return merged
        raise SessionStoreUnavailable(
            f"a session was not saved: its store has refused {_MERGES} times to replace what it had just loaded; see "
            "that replace() compares with the text that load() gives"
        )

    async def _goes_on(self, key: str, base: str, text: str, touched: Set[str]) -> str:
        """The values for the new key: with what others have stored under the old one since the load."""
        assert self._store is not None
        current = await self._store.load(key)
        return text if current is None or current == base else _merged(base, text, current, touched)

    def _adopt(self, text: str) -> None:
        """Take over what others have stored: ``text`` is what the store has now."""
        stored = _decode(text)
        # What has changed while it was being saved.
        changed, removed = _changes(_decode(self._text), self._data, self._touched)
        data = {}
        for name, value in stored.items():
            mine = self._data.get(name)  # what the program may hold, and go on to change
            data[name] = mine if _same(mine, value) else value
        data.update(changed)
        for name in removed:
            data.pop(name, None)
        self._data = data
        self._text = text

    def lose(self) -> None:
        """It was ended elsewhere: what follows is anonymous, and nobody has to be told."""
        self._forget()
        self.ended_elsewhere = True

    def _forget(self) -> None:
        self._data.clear()
        if not self._fixed:
            self._key = None
        self._held = False
        self._text = "{}"
        self._touched.clear()
        self._modified = False

    # -- who has to know that it is over

    async def _delete(self, key: str, how: Ended) -> None:
        assert self._store is not None
        await self._store.delete(key)
        if self._on_end is not None:
            self._over.append((key, how))
            if not self._waits_to_tell:
                await self.tell_ended()

    def wait_to_tell(self) -> None:
        """What ends from now on is told by :meth:`tell_ended`: a handler may have more to say to who is concerned."""
        self._waits_to_tell = True

    @property
    def over(self) -> list[str]:
        """The keys that have ended and of which nobody was told."""
        return [key for key, _ in self._over]

    async def tell_ended(self) -> None:
        """Tell of the keys that have ended, and from now on at once."""
        self._waits_to_tell = False
        over, self._over = self._over, []
        for key, how in over:
            assert self._on_end is not None
            await self._on_end(key, how)

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


def _same(one: Any, other: Any) -> bool:
    """Whether JSON has one form for both: 1, 1.0 and True are three."""
    try:
        return encode_json(one) == encode_json(other)
    except (TypeError, ValueError):
        return False


def _changes(
    base: dict[str, Any], data: dict[str, Any], touched: Set[str]
) -> tuple[dict[str, Any], Set[str]]:
    """The names whose values are others in ``data`` than in ``base``, or were set; and those that are gone."""
    changed = {
        name: value
        for name, value in data.items()
        if name in touched or name not in base or not _same(value, base[name])
    }
    return changed, {name for name in (*base, *touched) if name not in data}


def _merged(base: str, text: str, current: str, touched: Set[str]) -> str:
    """``current`` with what has changed between ``base`` and ``text``."""
    changed, removed = _changes(_decode(base), _decode(text), touched)
    return encode_json(
        {name: value for name, value in _decode(current).items() if name not in removed} | changed
    )


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

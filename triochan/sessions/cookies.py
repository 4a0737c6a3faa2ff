"""The cookie that carries a session's key, signed."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets as random
from collections.abc import Sequence
from typing import Any, get_args

import itsdangerous

from ..exceptions import ImproperlyConfigured
from ..http.cookies import TLS_PREFIXES, SameSite, cookie_pairs, set_cookie
from ..log_lines import say
from ..message import Message

logger = logging.getLogger("triochan.sessions")

LEAST_SECRET = 16
"""Characters that a secret has at least; ``python -c "import secrets; print(secrets.token_urlsafe(32))"`` makes one."""

SECRET_VARIABLE = "TRIOCHAN_SECRET"
"""The environment variable that has the secrets of an application that names none."""

CLOCK_SKEW = 300
"""Seconds that the clock of the host that signed a cookie may be ahead of this one's."""

LONGEST_AGE = 2**31 - 1
"""Seconds: 68 years."""

_CANDIDATES = 16
"""Cookies of the session's name that are looked at in one request: each costs a signature's check."""

_LONGEST = 512
"""Characters of a cookie's value that are looked at: a signed key has 84, and a hash takes as long as its text is."""


class SessionCookies:
    """Signs session keys into cookies and reads them back (itsdangerous: HMAC with SHA-256, and a time).

    Args:
        secrets: the first one signs, all of them verify, so that a new one is put in front and the old ones go when
            their cookies are over. None: those in the environment variable ``TRIOCHAN_SECRET``, with commas between
            them; and without it a random one for this process.
        name, path, domain: of the cookie.
        secure: send it over TLS only; None: as the request came, or only so where ``same_site`` is ``"None"`` or the
            name has the prefix ``__Secure-`` or ``__Host-``, as browsers would throw it away otherwise.
        same_site: when browsers send it along with requests that other sites make.
        max_age: seconds from the signature until it is worth nothing.

    Attributes:
        random: the secret is a random one of this process.

    Raises:
        ImproperlyConfigured: a secret that is too short to be one, or a cookie that can't be: an option of another
            type, a ``same_site`` that there is not, a ``max_age`` that is no whole number from 1 up.
    """

    def __init__(
        self,
        secrets: Sequence[str | bytes] = (),
        *,
        name: str = "triochan_session",
        path: str = "/",
        domain: str | None = None,
        secure: bool | None = None,
        same_site: SameSite = "Lax",
        max_age: int = 14 * 24 * 3600,
    ) -> None:
        if isinstance(secrets, (str, bytes)):
            raise ImproperlyConfigured("secrets is a list of strings, the newest first, not one string")
        secrets = secrets or [each for each in os.environ.get(SECRET_VARIABLE, "").split(",") if each]
        for secret in secrets:
            if not isinstance(secret, (str, bytes)) or len(secret) < LEAST_SECRET:
                raise ImproperlyConfigured(
                    f"a secret has at least {LEAST_SECRET} characters; this makes one: "
                    'python -c "import secrets; print(secrets.token_urlsafe(32))"'
                )
        _check_options(
            name=name, path=path, domain=domain, secure=secure, same_site=same_site, max_age=max_age
        )
        self.name = name
        self.max_age = max_age
        self._path = path
        self._domain = domain
        needs_tls = same_site == "None" or name.lower().startswith(TLS_PREFIXES)
        self._secure = True if secure is None and needs_tls else secure
        self._same_site: SameSite = same_site
        self.random = not secrets
        self._said = False
        raw = [secret.encode() if isinstance(secret, str) else secret for secret in secrets]
        self._raw = raw or [random.token_bytes(32)]
        self._signer = _signer(self._raw)
        try:
            self._header("", secure=self._secure is True, max_age=None)
        except ValueError as error:
            raise ImproperlyConfigured(str(error)) from None

    def keys(self, message: Message) -> list[str]:
        """The session keys in the request's cookies, in their order; what is not one of ours is passed over: forged,
        cut short, too old, or signed with a secret that is not in use.

        There may be several: a browser sends the cookies of a parent domain, and of other paths, under the same name.
        """
        return [key for key, _ in self.signed(message)]

    def signed(self, message: Message) -> list[tuple[str, float]]:
        """:meth:`keys`, each with the seconds that have passed since it was signed; below 0 where a clock is ahead."""
        values = [value for name, value in cookie_pairs(message["headers"]) if name == self.name]
        if len(values) > _CANDIDATES:
            _say_why(message, f"it has {len(values)} of them, of which {_CANDIDATES} are looked at")
        found = []
        for value in values[:_CANDIDATES]:
            verified = self._verified(value)
            if verified is not None:
                found.append(verified)
            elif logger.isEnabledFor(logging.DEBUG):
                _say_why(message, self.why_not(value))
        return found

    def key(self, message: Message) -> str | None:
        """The first of :meth:`keys`; None where there is none."""
        return next(iter(self.keys(message)), None)

    def _verified(self, value: str) -> tuple[str, float] | None:
        if len(value) > _LONGEST:
            return None
        try:
            key, signed = self._signer.unsign(value, return_timestamp=True)
            # Not unsign's max_age, which has no patience with a clock that goes ahead.
            age = self._signer.get_timestamp() - signed.timestamp()
            return (key.decode("ascii"), age) if -CLOCK_SKEW <= age <= self.max_age else None
        except (itsdangerous.BadData, UnicodeError):
            return None

    def why_not(self, value: str) -> str:
        """Why a cookie's value is passed over: what is wrong with it, how old it is, and which secret has signed it, by
        its place in the list: 0 is the one that signs. Nothing of a secret, nor of the value."""
        if len(value) > _LONGEST:
            return f"too long: it has {len(value)} characters, and at most {_LONGEST} are looked at"
        for place, secret in enumerate(self._raw):
            signer = _signer([secret])
            try:
                itsdangerous.Signer.unsign(signer, value)
            except (itsdangerous.BadSignature, UnicodeError):
                continue
            try:
                key, signed = signer.unsign(value, return_timestamp=True)
                key.decode("ascii")
            except (itsdangerous.BadData, UnicodeError):
                return f"malformed: secret {place} has signed it, and it is no key and time"
            age = self._signer.get_timestamp() - signed.timestamp()
            if age < 0:
                return (
                    f"in the future: secret {place} has signed it, {-age:.0f} s from now; a clock may be ahead by "
                    f"{CLOCK_SKEW} s at most"
                )
            return f"expired: secret {place} has signed it, {age:.0f} s ago; max_age is {self.max_age} s"
        try:
            self._signer.unsign(value)
        except itsdangerous.BadTimeSignature as error:
            if error.date_signed is not None:
                age = self._signer.get_timestamp() - error.date_signed.timestamp()
                whose = (
                    "the secret has not" if len(self._raw) == 1 else f"none of {len(self._raw)} secrets has"
                )
                return f"signature: {whose} signed it; it says that it is {age:.0f} s old"
        except (itsdangerous.BadData, UnicodeError):
            pass
        return "malformed: it is no key, time and signature with dots between them"

    def header(self, message: Message, key: str) -> tuple[str, str]:
        """The ``Set-Cookie`` that answers ``message`` with a session key."""
        if self.random and not self._said:
            self._said = True
            logger.warning(
                "no secret is configured, so this process signs session cookies with a random one: when it restarts, "
                "and in every other process, they are worth nothing and everybody is logged out. Give the application "
                "secrets=[…], or set the environment variable TRIOCHAN_SECRET"
            )
        return self._header(self._signer.sign(key).decode("ascii"), self._is_secure(message), self.max_age)

    def deletion(self, message: Message) -> tuple[str, str]:
        """The ``Set-Cookie`` that takes the cookie away."""
        return self._header("", self._is_secure(message), 0)

    def _is_secure(self, message: Message) -> bool:
        return message.get("scheme") in ("https", "wss") if self._secure is None else self._secure

    def _header(self, value: str, secure: bool, max_age: int | None) -> tuple[str, str]:
        options: dict[str, Any] = {"path": self._path, "domain": self._domain, "same_site": self._same_site}
        return set_cookie(self.name, value, max_age=max_age, secure=secure, http_only=True, **options)


def _signer(secrets: list[bytes]) -> itsdangerous.TimestampSigner:
    """Signs with the first one."""
    return itsdangerous.TimestampSigner(
        secrets[::-1],  # itsdangerous signs with the last one
        salt="triochan.sessions",
        key_derivation="hmac",
        digest_method=hashlib.sha256,
    )


def _say_why(message: Message, why: str) -> None:
    say(logger, logging.DEBUG, "a session cookie on %r is passed over: %s", message.own.get("path"), why)


def _check_options(
    *, name: object, path: object, domain: object, secure: object, same_site: object, max_age: object
) -> None:
    for option, value, optional in (("name", name, False), ("path", path, False), ("domain", domain, True)):
        if not isinstance(value, str) and not (optional and value is None):
            raise ImproperlyConfigured(f"the session cookie's {option} is a string, not {value!r}")
    if secure is not None and not isinstance(secure, bool):
        raise ImproperlyConfigured(
            f"the session cookie's secure is True, False, or None for 'as the request came', not {secure!r}"
        )
    if same_site not in get_args(SameSite):
        raise ImproperlyConfigured(
            f"the session cookie's same_site is {', '.join(map(repr, get_args(SameSite)))}, not {same_site!r}"
        )
    if isinstance(max_age, bool) or not isinstance(max_age, int) or not 1 <= max_age <= LONGEST_AGE:
        raise ImproperlyConfigured(
            f"the age of a session is a whole number of seconds from 1 to {LONGEST_AGE}, not {max_age!r}"
        )

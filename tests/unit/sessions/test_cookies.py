"""The signed cookie: what is refused, what the secrets do, and that nothing can be learned from a refusal."""

from __future__ import annotations

import base64
import hmac
import logging

import itsdangerous
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from triochan import Application, Channel, Message, route
from triochan.exceptions import ImproperlyConfigured
from triochan.http import text
from triochan.sessions import MemorySessionStore, SessionCookies, http_session
from triochan.test import Client

NEW, OLD, FOREIGN = "the newest of the secrets", "the secret before that one", "a secret of somebody else"
NAME = "triochan_session"


def a_request(value: str | bytes | None, name: str = NAME) -> Message:
    value = value.encode("latin-1", "replace") if isinstance(value, str) else value
    headers = [] if value is None else [(b"cookie", name.encode() + b"=" + value)]
    return Message({"headers": headers, "scheme": "http"}, Channel("http.request"))


def signed(cookies: SessionCookies, key: str = "a-key") -> str:
    return cookies.header(a_request(None), key)[1].partition(";")[0].partition("=")[2]


COOKIES = SessionCookies([NEW])
VALUE = signed(COOKIES)


def test_a_cookie_that_was_signed_says_its_key() -> None:
    assert COOKIES.key(a_request(VALUE)) == "a-key"
    assert COOKIES.key(a_request(f'"{VALUE}"')) == "a-key"
    assert COOKIES.key(a_request(None)) is None


NOT_OURS = [
    "",
    ".",
    "..",
    "a-key",
    VALUE[:-1],
    VALUE[1:],
    VALUE[: VALUE.rindex(".")],
    VALUE[: VALUE.rindex(".") + 1],
    VALUE + "A",
    "b" + VALUE[1:],
    VALUE.replace("a-key", "b-key"),
    VALUE.swapcase(),
    VALUE * 2,
    "a-key.\xff\xff.\xff",
    "x" * 4000,
    signed(SessionCookies([FOREIGN])),
    itsdangerous.TimestampSigner(NEW).sign("a-key").decode(),  # the right secret, for another purpose
    itsdangerous.Signer(NEW, salt="triochan.sessions").sign("a-key").decode(),
]


@pytest.mark.parametrize("value", NOT_OURS, ids=range(len(NOT_OURS)))  # a signature differs each time
def test_a_cookie_that_is_not_ours_is_none(value: str) -> None:
    assert COOKIES.key(a_request(value)) is None


@given(st.binary(max_size=200))
@example(VALUE.encode() + b"\x00")
def test_no_cookie_raises(value: bytes) -> None:
    assert COOKIES.key(a_request(value)) in (None, "a-key")


def a_value_with(character: str) -> tuple[SessionCookies, str]:
    """A cookie whose signature holds a character, and those that made it."""
    for number in range(10_000):
        cookies = SessionCookies([f"{NEW}, number {number}"])
        value = signed(cookies)
        if character in value.rpartition(".")[2]:
            return cookies, value
    raise AssertionError(f"no signature holds {character}")


def says(value: str) -> tuple[str, bytes]:
    """What is signed, and the signature's bytes: Base64 has more than one spelling of them (RFC 4648, section 3.5)."""
    text, _, signature = value.rpartition(".")
    return text, base64.urlsafe_b64decode(signature.encode("latin-1") + b"=" * (-len(signature) % 4))


@given(st.integers(0, len(VALUE) - 1), st.integers(0, 255))
def test_a_changed_character_spoils_the_cookie(index: int, character: int) -> None:
    value = VALUE[:index] + chr(character) + VALUE[index + 1 :]
    try:
        same = says(value) == says(VALUE)
    except ValueError:  # no Base64
        same = False
    assert COOKIES.key(a_request(value)) == ("a-key" if same else None)


@pytest.mark.parametrize(("safe", "standard"), [("_", "/"), ("-", "+")])
def test_a_signature_in_another_spelling_is_the_same_signature(safe: str, standard: str) -> None:
    cookies, value = a_value_with(safe)
    text, _, signature = value.rpartition(".")
    assert cookies.key(a_request(f"{text}.{signature.replace(safe, standard)}")) == "a-key"
    assert cookies.key(a_request(f"{text}.{signature.replace(safe, 'A')}")) is None


def test_a_cookie_is_over_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cookies = SessionCookies([NEW], max_age=60)
    value = signed(cookies)
    now = itsdangerous.TimestampSigner.get_timestamp(cookies._signer)
    monkeypatch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self: now + 60)
    assert cookies.key(a_request(value)) == "a-key"
    monkeypatch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self: now + 62)
    assert cookies.key(a_request(value)) is None
    monkeypatch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self: now - 3600)
    assert cookies.key(a_request(value)) is None


def test_the_first_secret_signs_and_all_of_them_verify() -> None:
    before, between, after = SessionCookies([OLD]), SessionCookies([NEW, OLD]), SessionCookies([NEW])
    assert between.key(a_request(signed(before))) == "a-key"
    assert after.key(a_request(signed(between))) == "a-key"
    assert before.key(a_request(signed(between))) is None
    assert after.key(a_request(signed(before))) is None
    assert SessionCookies([NEW.encode()]).key(a_request(signed(after))) == "a-key"


def test_an_application_without_secrets_has_those_of_the_environment(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIOCHAN_SECRET", f"{NEW},{OLD}")
    assert SessionCookies([NEW]).key(a_request(signed(SessionCookies()))) == "a-key"
    assert SessionCookies().key(a_request(signed(SessionCookies([OLD])))) == "a-key"
    assert SessionCookies([FOREIGN]).key(a_request(signed(SessionCookies()))) is None
    assert not caplog.records
    monkeypatch.setenv("TRIOCHAN_SECRET", "short")
    with pytest.raises(ImproperlyConfigured, match="at least 16 characters"):
        SessionCookies()


def test_without_a_secret_each_process_has_its_own_and_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRIOCHAN_SECRET", raising=False)
    cookies = SessionCookies()
    assert not caplog.records
    value = signed(cookies)
    assert cookies.key(a_request(value)) == "a-key"
    assert SessionCookies().key(a_request(value)) is None
    signed(cookies)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "everybody is logged out" in record.getMessage()
    assert "TRIOCHAN_SECRET" in record.getMessage()


@pytest.mark.parametrize(
    "secrets", ["one long string is no list of secrets", ["short"], [7], ["x" * 15], [None]]
)
def test_a_secret_that_is_none_is_refused(secrets: object) -> None:
    with pytest.raises(ImproperlyConfigured, match="secret") as error:
        SessionCookies(secrets)  # type: ignore[arg-type]
    assert "xxxxx" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [{"name": "a b"}, {"name": "a=b"}, {"name": "a\r\nX: y"}, {"path": "/;Domain=x"}, {"domain": "x\r\n"},
     {"same_site": "None", "secure": False}],
)  # fmt: skip
def test_a_cookie_that_can_not_be_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(ImproperlyConfigured):
        SessionCookies([NEW], **options)  # type: ignore[arg-type]


def test_the_comparison_takes_the_same_time_wherever_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures are compared as wholes, by hmac.compare_digest, whose time does not depend on what they hold."""
    compared = []
    compare = hmac.compare_digest

    def observed(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", observed)
    start = VALUE.rindex(".") + 1
    for index in range(start, len(VALUE) - 1):
        wrong = VALUE[:index] + ("A" if VALUE[index] != "A" else "B") + VALUE[index + 1 :]
        assert COOKIES.key(a_request(wrong)) is None
    assert compared == [(32, 32)] * (len(VALUE) - 1 - start)


class Watched(MemorySessionStore):
    def __init__(self) -> None:
        super().__init__()
        self.loads = 0

    async def load(self, key: str) -> str | None:
        self.loads += 1
        return await super().load(key)


async def test_what_is_not_signed_is_not_looked_for() -> None:
    """So that the time of an answer does not tell of a made-up key whether it is somebody's."""
    store = Watched()

    @http_session
    async def reader(message: Message) -> None:
        await message.reply_channel.send(text(str(message.http_session.get("a"))))

    async with Client(
        Application([route("http.request", reader)], session_store=store, secrets=[NEW])
    ) as client:
        await store.save("a-key", '{"a":1}', 60, new=True)
        assert (await client.get("/", headers={"Cookie": f"{NAME}={VALUE}"})).text == "1"
        assert store.loads == 1
        for value in ("a-key", VALUE[:-3], signed(SessionCookies([FOREIGN]))):
            response = await client.get("/", headers={"Cookie": f"{NAME}={value}"})
            assert (response.status, response.text) == (200, "None")
        assert store.loads == 1


async def test_a_key_that_the_store_does_not_hold_is_not_taken_up() -> None:
    """Or whoever has an old cookie could choose the key of somebody's session to come (session fixation)."""

    @http_session
    async def writer(message: Message) -> None:
        message.http_session["a"] = 1
        await message.reply_channel.send(text(""))

    async with Client(Application([route("http.request", writer)], secrets=[NEW])) as client:
        client.cookies[NAME] = VALUE
        await client.get("/")
        assert COOKIES.key(a_request(client.cookies[NAME])) not in (None, "a-key")

"""Cookies from clocks and browsers as they are: a clock ahead, several cookies of one name, options that are none."""

from __future__ import annotations

from typing import Any

import itsdangerous
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan import Application, Channel, Message, route
from triochan.exceptions import ImproperlyConfigured
from triochan.http import set_cookie, text
from triochan.sessions import MemorySessionStore, SessionCookies, http_session
from triochan.sessions.cookies import CLOCK_SKEW
from triochan.test import Client

SECRET = "the one secret of these tests"
COOKIES = SessionCookies([SECRET])


def a_request(*cookies: str) -> Message:
    return Message({"headers": [(b"cookie", each.encode()) for each in cookies]}, Channel("http.request"))


def signed(key: str) -> str:
    return COOKIES.header(a_request(), key)[1].partition(";")[0]


@pytest.mark.parametrize(
    ("offset", "taken"),
    [(-1, True), (-CLOCK_SKEW, True), (-CLOCK_SKEW - 2, False), (-3600, False), (60, True), (62, False)],
)
def test_a_clock_may_be_behind_the_signers(monkeypatch: pytest.MonkeyPatch, offset: int, taken: bool) -> None:
    cookies = SessionCookies([SECRET], max_age=60)
    request = a_request(cookies.header(a_request(), "a-key")[1].partition(";")[0])
    now = itsdangerous.TimestampSigner(SECRET).get_timestamp()
    monkeypatch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self: now + offset)
    assert cookies.key(request) == ("a-key" if taken else None)


async def test_a_fresh_cookie_is_not_overwritten_by_a_host_whose_clock_is_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @http_session
    async def visit(message: Message) -> None:
        message.http_session["visits"] = message.http_session.get("visits", 0) + 1
        await message.reply_channel.send(text(str(message.http_session["visits"])))

    async with Client(Application([route("http.request", visit)], secrets=[SECRET])) as client:
        assert (await client.get("/")).text == "1"
        now = itsdangerous.TimestampSigner(SECRET).get_timestamp()
        monkeypatch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self: now - 1)
        assert (await client.get("/")).text == "2"


SECOND = signed("second")
WORTHLESS = ["triochan_session=", "triochan_session=forged", "triochan_session=a.b.c", 'triochan_session="x"']


@given(st.lists(st.sampled_from([*WORTHLESS, "other=1", SECOND]), max_size=6), st.booleans())
def test_a_worthless_cookie_hides_no_valid_one(before: list[str], one_header: bool) -> None:
    cookies = [*before, signed("a-key"), *WORTHLESS]
    request = a_request("; ".join(cookies)) if one_header else a_request(*cookies)
    assert COOKIES.keys(request) == ["second"] * before.count(SECOND) + ["a-key"]


def test_only_so_many_cookies_are_checked() -> None:
    assert COOKIES.keys(a_request(*["triochan_session=x.y.z"] * 2000, signed("a-key"))) == []


async def test_a_cookie_of_an_ended_session_hides_no_other_one() -> None:
    store = MemorySessionStore()
    await store.save("held", '{"name": "ada"}', 60, new=True)
    application = Application([], session_store=store, secrets=[SECRET])

    @http_session
    async def handler(message: Message) -> None:
        assert dict(message.http_session) == {"name": "ada"}
        assert message.http_session.session_key == "held"

    message = a_request(f"{signed('ended')}; {signed('held')}")
    message.application = application
    await handler(message)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cookie_same_site": "Strick"}, "same_site is 'Lax', 'Strict', 'None', not 'Strick'"),
        ({"cookie_same_site": "lax"}, "not 'lax'"),
        ({"cookie_same_site": None}, "not None"),
        ({"session_age": "3600"}, "whole number of seconds from 1 to 2147483647, not '3600'"),
        ({"session_age": 3600.0}, "not 3600.0"),
        ({"session_age": True}, "not True"),
        ({"session_age": 0}, "not 0"),
        ({"session_age": -1}, "not -1"),
        ({"session_age": 2**31}, "not 2147483648"),
        ({"session_age": None}, "not None"),
        ({"cookie_secure": "yes"}, "secure is True, False, or None"),
        ({"cookie_name": 7}, "name is a string, not 7"),
        ({"cookie_path": None}, "path is a string, not None"),
        ({"cookie_domain": b"example.com"}, "domain is a string"),
        ({"user_id": "id"}, "user_id is a function of a user, not 'id'"),
        ({"session_age": float("nan")}, "not nan"),
        ({"session_age": float("inf")}, "not inf"),
        ({"session_age": 10**400}, "whole number of seconds"),
        ({"cookie_name": ""}, "is not a token"),
        ({"cookie_name": "a;b"}, "is not a token"),
        ({"cookie_name": "sitzung\u00fc"}, "is not a token"),
        ({"cookie_path": ""}, "begins with '/'"),
        ({"cookie_path": "app"}, "begins with '/'"),
        ({"cookie_path": "/a;b"}, "can't be an attribute"),
        ({"cookie_path": "/\u00fc"}, "can't be an attribute"),
        ({"cookie_domain": ""}, "is a host's name"),
        ({"cookie_domain": "https://example.com"}, "is a host's name"),
        ({"cookie_domain": "example.com:8000"}, "is a host's name"),
        ({"cookie_domain": "example.com/app"}, "is a host's name"),
        ({"cookie_domain": "a b.example"}, "is a host's name"),
        ({"cookie_domain": "*.example.com"}, "is a host's name"),
        ({"cookie_domain": "a..b"}, "is a host's name"),
        ({"cookie_same_site": "None", "cookie_secure": False}, "over TLS only: set secure=True"),
        ({"cookie_name": "__Secure-s", "cookie_secure": False}, "for its prefix: set secure=True"),
        ({"cookie_name": "__host-s", "cookie_secure": False}, "for its prefix: set secure=True"),
        ({"cookie_name": "__Host-s", "cookie_path": "/app"}, "with path='/' and without a domain only"),
        (
            {"cookie_name": "__Host-s", "cookie_domain": "example.com"},
            "with path='/' and without a domain only",
        ),
    ],
)
def test_an_option_that_is_none_is_found_when_the_application_is_made(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        Application([], **options)


@pytest.mark.parametrize(
    "options",
    [{"cookie_same_site": "None"}, {"cookie_name": "__Host-s"}, {"cookie_name": "__Secure-s", "cookie_path": "/a"},
     {"cookie_domain": ".example.com", "cookie_secure": True}],
)  # fmt: skip
def test_a_cookie_that_browsers_take_over_tls_only_is_always_secure(options: dict[str, Any]) -> None:
    application = Application([], secrets=[SECRET], **options)
    header = application.sessions.cookies.header(
        Message({"scheme": "http"}, Channel("http.request")), "a-key"
    )[1]
    assert "; Secure; " in header


def test_a_value_that_is_longer_than_a_cookie_of_ours_is_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    monkeypatch.setattr(
        itsdangerous.TimestampSigner, "unsign", lambda self, value, **kwargs: hashed.append(value)
    )
    assert COOKIES.keys(a_request("triochan_session=" + "x" * 60_000)) == []
    assert hashed == []


@pytest.mark.parametrize(
    "options", [{"same_site": "Strick"}, {"max_age": "60"}, {"max_age": "1; Domain=x"}, {"max_age": 1.5}]
)
def test_set_cookie_takes_no_such_attribute(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"max_age|same_site"):
        set_cookie("name", "value", **options)

"""What trusted proxies say of a request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan.exceptions import ImproperlyConfigured
from triochan.proxies import Forwarded, TrustedProxies

PROXY: list[str | int] = ["10.0.0.1", 4000]
TRUSTED = TrustedProxies(["10.0.0.0/8", "fd00::/8", "unix"])


def seen(*headers: tuple[str, str], client: Any = PROXY, trusted: TrustedProxies = TRUSTED) -> Forwarded:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return trusted.seen(pairs, client, "http")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], Forwarded(PROXY, "http")),
        ([("x-forwarded-for", "192.0.2.1")], Forwarded(["192.0.2.1", 0], "http")),
        ([("x-forwarded-for", " 192.0.2.1 , 10.9.9.9 ")], Forwarded(["192.0.2.1", 0], "http")),
        ([("x-forwarded-for", "192.0.2.1"), ("x-forwarded-for", "10.9.9.9")], Forwarded(["192.0.2.1", 0], "http")),
        # What a client made up stands before the first proxy that is not trusted.
        ([("x-forwarded-for", "1.1.1.1, 192.0.2.1, 10.9.9.9")], Forwarded(["192.0.2.1", 0], "http")),
        ([("x-forwarded-for", "10.1.1.1, 10.2.2.2")], Forwarded(["10.1.1.1", 0], "http")),
        ([("x-forwarded-for", "192.0.2.1:5000")], Forwarded(["192.0.2.1", 5000], "http")),
        ([("x-forwarded-for", "2001:db8::1")], Forwarded(["2001:db8::1", 0], "http")),
        ([("x-forwarded-for", "[2001:db8::1]:5000")], Forwarded(["2001:db8::1", 5000], "http")),
        ([("x-forwarded-for", "unknown")], Forwarded(["unknown", 0], "http")),
        ([("x-forwarded-for", "rubbish!, 10.9.9.9")], Forwarded(["10.9.9.9", 0], "http")),
        ([("x-forwarded-for", "192.0.2.1:99999")], Forwarded(PROXY, "http")),
        ([("x-forwarded-for", "")], Forwarded(PROXY, "http")),
        ([("x-forwarded-proto", "https")], Forwarded(PROXY, "https")),
        ([("x-forwarded-proto", "WSS")], Forwarded(PROXY, "https")),
        ([("x-forwarded-proto", "gopher")], Forwarded(PROXY, "http")),
        ([("x-forwarded-host", "example.com:8443")], Forwarded(PROXY, "http", b"example.com:8443")),
        ([("x-forwarded-host", "exa mple")], Forwarded(PROXY, "http")),
        (
            [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "example.com")],
            Forwarded(["192.0.2.1", 0], "https", b"example.com"),
        ),
        (
            [("forwarded", "for=192.0.2.1;proto=https;host=example.com")],
            Forwarded(["192.0.2.1", 0], "https", b"example.com"),
        ),
        ([("forwarded", 'For="[2001:db8::1]:4711"; Proto=HTTPS')], Forwarded(["2001:db8::1", 4711], "https")),
        ([("forwarded", 'for="192.0.2.1:80", for=10.2.2.2;proto=https')], Forwarded(["192.0.2.1", 80], "https")),
        ([("forwarded", "for=192.0.2.1"), ("forwarded", "for=10.2.2.2")], Forwarded(["192.0.2.1", 0], "http")),
        ([("forwarded", "for=1.1.1.1;host=evil, for=192.0.2.1, for=10.2.2.2")], Forwarded(["192.0.2.1", 0], "http")),
        ([("forwarded", "for=_hidden")], Forwarded(["_hidden", 0], "http")),
        ([("forwarded", 'for="\\1\\9\\2.0.2.1"')], Forwarded(["192.0.2.1", 0], "http")),
        ([("forwarded", "proto=https;by=10.0.0.1")], Forwarded(PROXY, "https")),
        # A client's rubbish takes nothing from what the proxy behind it has added.
        ([("forwarded", 'for="1.1.1.1, for=192.0.2.1')], Forwarded(["192.0.2.1", 0], "http")),
        ([("forwarded", "@@@, for=192.0.2.1")], Forwarded(["192.0.2.1", 0], "http")),
        ([("forwarded", "@@@")], Forwarded(PROXY, "http")),
        ([("forwarded", "for=192.0.2.1"), ("x-forwarded-for", "1.1.1.1")], Forwarded(["192.0.2.1", 0], "http")),
    ],
)  # fmt: skip
def test_what_a_trusted_proxy_says(headers: list[tuple[str, str]], expected: Forwarded) -> None:
    assert seen(*headers) == expected


EVERYTHING = [
    ("x-forwarded-for", "192.0.2.1"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "example.com"),
]


@pytest.mark.parametrize(
    ("trusted", "client", "believed"),
    [
        (["10.0.0.1"], ["10.0.0.1", 1], True),
        (["10.0.0.1"], ["10.0.0.2", 1], False),
        (["10.0.0.1"], ["::ffff:10.0.0.1", 1], True),
        (["::1"], ["::1", 1], True),
        (["10.0.0.1"], None, False),
        (["unix"], None, True),
        (["*"], None, True),
        (["*"], ["203.0.113.9", 1], True),
        ([], ["127.0.0.1", 1], False),
    ],
)
def test_who_is_trusted(trusted: list[str], client: Any, believed: bool) -> None:
    found = seen(*EVERYTHING, client=client, trusted=TrustedProxies(trusted))
    assert (found == Forwarded(["192.0.2.1", 0], "https", b"example.com")) == believed
    assert (found == Forwarded(client, "http")) != believed


def test_where_everybody_is_trusted_the_farthest_is_the_client() -> None:
    hops = ", ".join(f"192.0.2.{each}" for each in range(100))
    assert seen(("x-forwarded-for", hops), trusted=TrustedProxies(["*"])).client == ["192.0.2.0", 0]


def test_a_thousand_hops() -> None:
    hops = ", ".join(["for=10.1.1.1"] * 1000)
    assert seen(("forwarded", hops)).client == ["10.1.1.1", 0]
    assert seen(("forwarded", hops), client=["203.0.113.9", 1]).client == ["203.0.113.9", 1]


@pytest.mark.parametrize(
    "addresses", ["10.0.0.1", ["10.0.0.1/33"], ["10.0.0.1/8"], ["proxy.example.com"], [""]]
)
def test_what_is_no_proxy(addresses: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="trusted prox"):
        TrustedProxies(addresses)


@given(
    st.sampled_from(["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"]),
    st.one_of(st.text(st.characters(max_codepoint=255)), st.text(';,="\\ abcfor[]:.123')),
)
def test_whatever_a_client_sends_is_read(name: str, value: str) -> None:
    found = seen((name, value))
    assert found.scheme in ("http", "https")
    assert found.client is not None
    # What a proxy adds behind it counts, whatever stands before it.
    if name == "x-forwarded-for":
        assert seen((name, f"{value}, 192.0.2.1")).client == ["192.0.2.1", 0]
    if name == "forwarded" and '"' not in value:
        assert seen((name, f"{value}, for=192.0.2.1")).client == ["192.0.2.1", 0]

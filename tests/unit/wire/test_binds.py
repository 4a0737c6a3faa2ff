"""Where to listen, as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan.exceptions import ImproperlyConfigured
from triochan.wire.binds import Bind, parse_bind, parse_binds, place


@pytest.mark.parametrize(
    ("text", "bind", "said"),
    [
        ("127.0.0.1:8000", Bind("127.0.0.1", 8000), "127.0.0.1:8000"),
        ("[::1]:0", Bind("::1", 0), "[::1]:0"),
        ("[fe80::1%eth0]:65535", Bind("fe80::1%eth0", 65535), "[fe80::1%eth0]:65535"),
        ("chat.example.com:80", Bind("chat.example.com", 80), "chat.example.com:80"),
        ("unix:/run/app.sock", Bind(path="/run/app.sock"), "the Unix socket /run/app.sock"),
        ("unix:a:80", Bind(path="a:80"), "the Unix socket a:80"),
        ("fd://3", Bind(descriptor=3), "descriptor 3"),
        ("fd://0", Bind(descriptor=0), "descriptor 0"),
    ],
)
def test_what_is_one(text: str, bind: Bind, said: str) -> None:
    assert parse_bind(text) == bind
    assert str(bind) == said


def test_every_interface_has_a_name() -> None:
    assert str(Bind(None, 80)) == "*:80"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "",
            "'' is not where one can listen; HOST:PORT such as 127.0.0.1:8000 or [::1]:8000, unix:PATH, or ",
        ),
        ("localhost", "'localhost' is not where one can listen; "),
        ("http://localhost:80", "is not where one can listen"),
        ("/run/app.sock", "is not where one can listen"),
        ("unix:", "'unix:' names no path; unix:/run/app.sock is expected"),
        ("fd://", "'fd://' names no descriptor; fd://3 is expected"),
        ("fd:3", "names no descriptor"),
        ("fd://-1", "names no descriptor"),
        ("fd://٣", "names no descriptor"),
        (f"fd://{2**31}", "names no descriptor"),
        (
            "localhost:http",
            "'localhost:http' ends in no port: a number from 0 to 65535 is expected, as in localhost:8000",
        ),
        ("localhost:", "ends in no port"),
        ("localhost:65536", "ends in no port"),
        (":", "ends in no port: a number from 0 to 65535 is expected, as in 127.0.0.1:8000"),
        ("[::1]", "ends in no port"),
        ("::1:8000", "'::1:8000': an IPv6 address stands in brackets, as in [::1]:8000"),
        (":8000", "':8000' has no host; 0.0.0.0:8000 and [::]:8000 are every interface, 127.0.0.1:8000 is"),
        ("[]:8000", "has no host"),
    ],
)
def test_what_is_none(text: str, said: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse_bind(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text("0123456789a:.[]/%unixfd", max_size=30))
def test_any_text_is_one_or_an_error(text: str) -> None:
    try:
        bind = parse_bind(text)
    except ImproperlyConfigured:
        return
    if bind.host is not None:
        assert parse_bind(place(bind.host, bind.port)) == bind


def test_several() -> None:
    assert parse_binds("unix:a") == [Bind(path="a")]
    assert parse_binds(["unix:a", "127.0.0.1:0", "127.0.0.1:0"])[1:] == [Bind("127.0.0.1", 0)] * 2
    for twice in ("unix:a", "fd://3", "127.0.0.1:80"):
        with pytest.raises(ImproperlyConfigured, match="is to be listened on twice; once is expected"):
            parse_binds([twice, twice])
    with pytest.raises(ImproperlyConfigured, match=r"bind takes strings, .*, not 8000"):
        parse_binds([8000])  # type: ignore[list-item]

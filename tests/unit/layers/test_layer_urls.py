"""A layer by its URL: which one, and what is said to one that is none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from triochan import Settings
from triochan.exceptions import ImproperlyConfigured
from triochan.layers import MemoryLayer, layer_from_url

pytest.importorskip("coredis")


def test_memory() -> None:
    settings = Settings()
    layer = layer_from_url("memory://", settings)
    assert isinstance(layer, MemoryLayer)
    assert layer.settings is settings


@pytest.mark.parametrize(
    ("url", "place", "topic"),
    [
        ("redis://localhost", "redis://localhost", "mine@0:a"),
        ("redis://localhost:6379/3", "redis://localhost:6379/3", "mine@3:a"),
        ("rediss://user:secret@host/", "rediss://user:***@host/", "mine@0:a"),
        ("valkey://:secret@host:1?db=5", "valkey://:***@host:1?db=5", "mine@5:a"),
        ("valkeys://host", "valkeys://host", "mine@0:a"),
        ("unix:///run/valkey.sock", "unix:///run/valkey.sock", "mine@0:a"),
        ("unix://:secret@/run/valkey.sock?db=2", "unix://:***@/run/valkey.sock?db=2", "mine@2:a"),
    ],
)
def test_an_engine(url: str, place: str, topic: str) -> None:
    from triochan.layers.redis import RedisLayer

    layer = layer_from_url(url, prefix="mine", start_timeout=2.5)
    assert isinstance(layer, RedisLayer)
    assert layer.engine.place == place
    assert layer.engine.topic("a") == topic
    assert layer.engine.key("a", "b") == "mine:a:b"


@pytest.mark.parametrize("url", ["", "redis", "localhost:6379", "memory:"])
def test_no_url(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="a layer is named by a URL: memory://, redis://localhost"):
        layer_from_url(url)


@pytest.mark.parametrize("url", ["http://host", "redis://", "amqp://user:secret@host", "memory://x"])
def test_a_url_of_something_else(url: str) -> None:
    with pytest.raises(
        ImproperlyConfigured, match="the URL of an engine begins with one of redis://"
    ) as caught:
        layer_from_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("absent", ["coredis", "msgpack"])
def test_what_it_needs_is_not_installed(absent: str) -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.modules[{absent!r}] = None\n"
            "from triochan.layers import layer_from_url\nlayer_from_url('redis://localhost')",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert told.stderr.splitlines()[-1] == (
        "triochan.exceptions.ImproperlyConfigured: a layer through Redis or Valkey needs coredis and msgpack: "
        "pip install 'triochan[redis]'"
    )


def test_the_packages_are_imported_by_who_needs_them() -> None:
    code = "import sys, triochan, triochan.cli, triochan.layers; print({'coredis', 'msgpack'} & sys.modules.keys())"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert told.stdout == "set()\n"

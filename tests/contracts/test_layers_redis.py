"""The layer through Redis or Valkey, on a valkey-server of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from engines import EngineProcess, engine

from triochan.exceptions import LayerUnavailable
from triochan.layers import current_layer, layer_from_url
from triochan.layers.redis import RedisLayer

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running_engine() -> Iterator[EngineProcess]:
    with engine() as process:
        yield process


async def test_it_runs(running_engine: EngineProcess) -> None:
    layer = layer_from_url(running_engine.url)
    assert isinstance(layer, RedisLayer)
    async with layer.running():
        assert current_layer() is layer
        script = layer.engine.script("return {KEYS[1], ARGV[1]}")
        assert await layer.engine.ask(script([layer.engine.key("a")], ["1"])) == [b"triochan:a", b"1"]


async def test_no_engine_at_the_start(tmp_path: object) -> None:
    layer = RedisLayer(f"unix://{tmp_path}/none.sock", start_timeout=0.3)
    with (
        pytest.raises(LayerUnavailable, match=r"no engine at unix://.*/none.sock within 0.3 s"),
        trio.fail_after(5),
    ):
        async with layer.running():
            raise AssertionError("it runs without an engine")

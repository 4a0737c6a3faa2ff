"""What those are told who have asked an engine that is lost."""

from __future__ import annotations

import traceback

import pytest

pytest.importorskip("coredis")

from coredis.exceptions import ConnectionError as Lost

from triochan.exceptions import LayerUnavailable
from triochan.layers.redis.engine import Engine


async def test_a_loss_is_told_in_a_few_lines_however_many_have_asked() -> None:
    """coredis raises one and the same error for all of them, whose traceback grows with each."""
    engine = Engine("unix:///nowhere")
    lost = Lost("it is gone")

    async def ask() -> None:
        raise lost

    lines = []
    for _ in range(50):
        with pytest.raises(LayerUnavailable, match="it is gone") as raised:
            await engine.ask(ask())
        lines.append(len(traceback.format_exception(raised.value)))
    assert raised.value.__cause__ is lost
    assert lines[-1] == lines[0]

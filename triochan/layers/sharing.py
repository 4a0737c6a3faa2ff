"""One layer for all servers of a Trio run, for as long as the last of them needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs

from ..running import SharedBlock, run_local
from .base import SECOND_LAYER, ChannelLayer, running_layer


@asynccontextmanager
async def share_layer(
    layer: ChannelLayer | None, make: Callable[[], ChannelLayer]
) -> AsyncIterator[ChannelLayer]:
    """The layer that serves this Trio run, for as long as the block lasts.

    The first block begins it and the last one ends it, whichever that is (:class:`triochan.running.SharedBlock`). So
    a layer's own tasks live until the last server has ended. When they break off, every block is cancelled and raises
    what they raised. A layer that the program has entered by hand ends with the program's block.

    Args:
        layer: the one to share; None: the one that serves this run already, or a new one.
        make: makes the new one.

    Raises:
        RuntimeError: another layer than ``layer`` serves this run.
    """
    shared = run_local().of(_Shared)
    while shared.block is not None and await shared.block.ending():
        pass
    serving = running_layer() if shared.layer is None else shared.layer
    if layer is not None and serving is not None and layer is not serving:
        raise RuntimeError(SECOND_LAYER)
    if shared.block is None:
        if serving is not None:
            yield serving
            return
        shared.layer = make() if layer is None else layer
        shared.block = SharedBlock(shared.layer.running, shared.forget)
        shared.block.start()
    assert shared.layer is not None
    serving = shared.layer
    async with shared.block.held():
        yield serving


@attrs.define(eq=False)
class _Shared:
    """The layer of one Trio run that servers share now."""

    layer: ChannelLayer | None = None
    block: SharedBlock[None] | None = None

    def forget(self) -> None:
        self.layer = self.block = None

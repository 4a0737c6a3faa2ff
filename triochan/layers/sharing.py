"""One layer for all servers of a Trio run, for as long as the last of them needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from ..running import run_local
from .base import SECOND_LAYER, ChannelLayer, running_layer


@asynccontextmanager
async def share_layer(
    layer: ChannelLayer | None, make: Callable[[], ChannelLayer]
) -> AsyncIterator[ChannelLayer]:
    """The layer that serves this Trio run, for as long as the block lasts.

    The first block begins it and the last one ends it, whichever that is. So :meth:`ChannelLayer.running` is entered in
    a task of the run's, not of one server's: a layer's own tasks live until the last server has ended. When they
    break off, every block is cancelled and raises what they raised. A layer that the program has entered by hand
    ends with the program's block.

    Args:
        layer: the one to share; None: the one that serves this run already, or a new one.
        make: makes the new one.

    Raises:
        RuntimeError: another layer than ``layer`` serves this run.
    """
    shared = run_local().of(_Shared)
    while (holder := shared.holder) is not None and holder.left.is_set():
        await holder.ended.wait()
    serving = running_layer() if holder is None else holder.layer
    if layer is not None and serving is not None and layer is not serving:
        raise RuntimeError(SECOND_LAYER)
    if holder is None:
        if serving is not None:
            yield serving
            return
        holder = shared.holder = _Holder(make() if layer is None else layer, shared)
        trio.lowlevel.spawn_system_task(holder.run, name=share_layer)
    async with holder.held():
        yield holder.layer


@attrs.define(eq=False)
class _Shared:
    """The layer of one Trio run that servers share now."""

    holder: _Holder | None = None


@attrs.define(eq=False)
class _Holder:
    """A task that runs a layer until nobody holds it any more."""

    layer: ChannelLayer
    shared: _Shared
    blocks: set[trio.CancelScope] = attrs.field(factory=set)
    begun: trio.Event = attrs.field(factory=trio.Event)
    left: trio.Event = attrs.field(factory=trio.Event)
    """Nobody holds it any more."""
    ended: trio.Event = attrs.field(factory=trio.Event)
    error: Exception | None = None

    async def run(self) -> None:
        try:
            async with self.layer.running():
                self.begun.set()
                await self.left.wait()
        except Exception as error:  # noqa: BLE001 - raised where it is held: here it would end the whole run
            self.error = error
        finally:
            self.shared.holder = None
            self.begun.set()
            self.ended.set()
            for block in self.blocks:
                block.cancel()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        block = trio.CancelScope()
        self.blocks.add(block)
        try:
            with block:
                await self.begun.wait()
                if not self.ended.is_set():
                    yield
        finally:
            self.blocks.discard(block)
            if not self.blocks:
                self.left.set()
                with trio.CancelScope(shield=True):
                    await self.ended.wait()  # noqa: ASYNC102 - leaving is the layer's, which bounds it itself
        if self.error is not None:
            raise self.error

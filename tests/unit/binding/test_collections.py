"""Observable collections: changes, copies, keys, order and failures."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import pytest
import trio
from trio.testing import MockClock

from triochan.binding.collections import Collection
from triochan.binding.source import Delivery, deliver
from triochan.binding.websockets import WebsocketBinding
from triochan.exceptions import ImproperlyConfigured, LayerUnavailable
from triochan.layers import MemoryLayer


@attrs.define
class Post:
    title: str
    tags: list[str] = attrs.field(factory=list)
    _hidden: bool = False
    length: int = attrs.field(init=False)
    id: int | None = None

    def __attrs_post_init__(self) -> None:
        self.length = len(self.title)


@attrs.frozen
class Named:
    name: str = attrs.field(validator=attrs.validators.instance_of(str))


class Recording(MemoryLayer):
    """Notes group sends; slow or broken where told."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []
        self.delay = 0.0
        self.error: Exception | None = None

    async def group_send(self, group: str, content: dict[str, Any], exclude: str | None = None) -> None:
        await trio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        self.sent.append(content["text"])


def bind(collection: Collection[Any]) -> type[WebsocketBinding]:
    class Bound(WebsocketBinding):
        model = collection
        stream = "s"
        exclude: ClassVar[list[str]] = []

        @classmethod
        def group_names(cls, instance: Any) -> list[str]:
            return ["all"]

    return Bound


async def test_insert_update_and_delete() -> None:
    posts = Collection(Post)
    first, second = await posts.insert(Post("One")), await posts.insert(Post("Two"))
    assert (first.id, second.id) == (1, 2)
    assert len(posts) == 2
    assert 2 in posts
    changed = await posts.update(1, title="First", _hidden=True)
    assert (changed.title, changed._hidden, changed.length) == ("First", True, 5)
    assert posts[1] == posts.get(1) == changed
    assert [each.id for each in posts] == [1, 2]
    assert (await posts.delete(2)) == second
    assert posts.get(2) is None
    assert (await posts.insert(Post("Three"))).id == 3  # a key is not used twice
    assert (await posts.insert(Post("Ten", id=10))).id == 10
    assert (await posts.insert(Post("Eleven"))).id == 11
    assert repr(posts) == "<Collection of 4 test_collections.post>"


async def test_what_is_given_out_is_a_copy() -> None:
    posts = Collection(Post)
    given = Post("One", id=1)
    for handed_out in (given, await posts.insert(given), posts[1], await posts.update(1), *posts):
        handed_out.title = "changed behind its back"
    assert posts[1].title == "One"


async def test_mistakes_of_the_program() -> None:
    posts = Collection(Post)
    await posts.insert(Post("One", id=1))
    with pytest.raises(ValueError, match="there is a Post with id 1 already"):
        await posts.insert(Post("Again", id=1))
    with pytest.raises(TypeError, match="takes no Named"):
        await posts.insert(Named("x"))  # type: ignore[arg-type]
    for wrong in ("length", "id", "no_such"):
        with pytest.raises(TypeError, match=f"Post.{wrong} can't be given a new value"):
            await posts.update(1, **{wrong: 7})
    for call in (posts.update, posts.delete):
        with pytest.raises(KeyError):
            await call(99)
    names = Collection(Named, pk="name")
    with pytest.raises(ValueError, match="already"):
        await names.insert(await names.insert(Named("x")))
    with pytest.raises(ImproperlyConfigured, match="pk= names one of name"):
        Collection(Named)
    with pytest.raises(ImproperlyConfigured, match="is of an attrs class, not of"):
        Collection(int)


async def test_a_change_that_a_binding_can_not_serialize_is_not_made() -> None:
    posts = Collection(Post)
    bind(posts)
    await posts.insert(Post("One"))
    with pytest.raises(TypeError):
        await posts.update(1, tags=object())
    assert posts[1].tags == []


async def test_without_a_server_there_is_nobody_to_tell() -> None:
    posts = Collection(Post)
    bind(posts)
    assert (await posts.insert(Post("One"))).id == 1


async def test_changes_are_told_in_the_order_in_which_they_are_made(autojump_clock: MockClock) -> None:
    posts = Collection(Post)
    bind(posts)
    layer = Recording()
    layer.delay = 0.1
    async with layer.running():
        await posts.insert(Post("0"))
        async with trio.open_nursery() as nursery:
            for number in range(20):

                async def change(number: int = number) -> None:
                    await posts.update(1, title=str(number))

                nursery.start_soon(change)
    told = [text.partition('"title":"')[2].partition('"')[0] for text in layer.sent]
    assert len(told) == 21
    assert told[-1] == posts[1].title


async def test_a_cancelled_change_is_told_or_not_made(autojump_clock: MockClock) -> None:
    posts = Collection(Post)
    bind(posts)
    layer = Recording()
    layer.delay = 1
    async with layer.running():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(posts.insert, Post("One"))
            nursery.start_soon(posts.insert, Post("Two"))
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        assert len(posts) == len(layer.sent) == 1


async def test_a_change_stands_where_it_can_not_be_told(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    posts = Collection(Post)
    bind(posts)
    layer = Recording()
    layer.error = LayerUnavailable("the engine is away")
    async with layer.running():
        await posts.insert(Post("One"))
        assert len(posts) == 1
        assert "group 'all' was not told of a change" in caplog.text
        caplog.clear()
        layer.error = None
        layer.delay = 60
        with trio.fail_after(6):
            await deliver([Delivery("slow", {"text": "a"}), Delivery("slower", {"text": "b"})])
        assert "not told of a change within 5 s: groups slow, slower" in caplog.text

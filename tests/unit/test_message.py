"""Messages as mappings, and the rule for names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan import Channel, Group, Message
from triochan.message import MAX_NAME_LENGTH, check_name

OBJECT: Any = object()


def message(**content: Any) -> Message:
    return Message(content, Channel("websocket.receive"), connection=OBJECT)


def answerable(**content: Any) -> Message:
    return Message(content, Channel("websocket.receive"), Channel("websocket.send.x!1"), connection=OBJECT)


class TestMapping:
    def test_is_a_mapping_over_its_content(self) -> None:
        made = message(path="/", order=1)
        assert made["path"] == "/"
        assert "path" in made
        assert "text" not in made
        assert made.get("text") is None
        assert made.get("text", "x") == "x"
        assert list(made) == list(made.keys()) == ["path", "order"]
        assert list(made.values()) == ["/", 1]
        assert dict(made.items()) == dict(made) == made.content
        assert len(made) == 2

    def test_a_missing_key_is_a_key_error(self) -> None:
        with pytest.raises(KeyError, match="text"):
            message()["text"]

    def test_a_key_may_be_set(self) -> None:
        made = message()
        made["path"] = "/x"
        assert made.content == {"path": "/x"}

    def test_an_empty_one_is_still_a_message(self) -> None:
        assert len(message()) == 0
        assert message().content == {}

    def test_the_reply_channel_s_name_is_in_the_content(self) -> None:
        """As in Channels 1, so that a content that is sent on takes the way back along."""
        reads: list[Callable[[Message], object]] = [
            lambda made: made["reply_channel"],
            lambda made: made.get("reply_channel"),
            lambda made: made.content["reply_channel"],
            lambda made: dict(made)["reply_channel"],
            lambda made: dict(made.items())["reply_channel"],
            lambda made: made.copy().content["reply_channel"],
        ]
        for read in reads:
            assert read(answerable(path="/")) == "websocket.send.x!1"
        assert "reply_channel" in answerable()
        assert list(answerable(path="/")) == list(answerable(path="/").keys()) == ["path", "reply_channel"]
        assert list(answerable(path="/").values()) == ["/", "websocket.send.x!1"]
        assert len(answerable()) == 1

    def test_without_one_it_is_not(self) -> None:
        assert "reply_channel" not in message()
        assert message().get("reply_channel", "none") == "none"
        assert message().content == {}
        with pytest.raises(KeyError, match="reply_channel"):
            message()["reply_channel"]

    def test_what_a_content_has_by_that_name_stays(self) -> None:
        made = answerable(reply_channel="its own")
        assert made["reply_channel"] == made.content["reply_channel"] == "its own"

    def test_the_content_may_be_replaced(self) -> None:
        made = answerable(path="/")
        made.content = {"text": "x"}
        assert "path" not in made
        assert made.content == {"text": "x", "reply_channel": "websocket.send.x!1"}

    def test_what_the_decorators_set_is_none_before(self) -> None:
        made = Message({}, Channel("a"))
        assert (made.reply_channel, made.connection, made.user) == (None, None, None)
        assert (made.channel_session, made.http_session, made.application) == (None, None, None)
        assert made.channel.name == "a"

    def test_repr_is_short_and_keeps_headers_to_itself(self) -> None:
        made = message(path="/" + "x" * 500, headers=[(b"cookie", b"secret")])
        assert "secret" not in repr(made)
        assert "websocket.receive" in repr(made)
        assert len(repr(made)) < 150


class TestCopy:
    def test_the_content_is_the_copy_s_own_to_the_bottom(self) -> None:
        made = message(nested={"list": [1]})
        copied = made.copy()
        copied["nested"]["list"].append(2)
        copied["more"] = 1
        assert made.content == {"nested": {"list": [1]}}
        assert copied.content == {"nested": {"list": [1, 2]}, "more": 1}

    def test_everything_around_it_is_shared(self) -> None:
        made = answerable()
        made.user, made.http_session, made.channel_session, made.application = (
            object(),
            object(),
            object(),
            OBJECT,
        )
        copied = made.copy()
        made["nested"] = {"channel": made.reply_channel}
        assert made.copy()["nested"]["channel"] is made.reply_channel
        for name in Message.__slots__:
            assert getattr(copied, name) is getattr(made, name) or name == "own"


class TestNames:
    @given(st.from_regex(r"\A[A-Za-z0-9\-_.]{1,100}\Z"))
    def test_a_name_is_returned_as_it_is(self, name: str) -> None:
        assert check_name("channel", name) == name
        assert Channel(name).name == Group(name).name == name

    @given(st.text(max_size=110))
    def test_anything_else_is_refused_and_named(self, name: str) -> None:
        valid = re.fullmatch(r"[a-zA-Z0-9._-]{1,100}", name) is not None
        for make in (Group, lambda name: check_name("group", name)):
            if valid:
                make(name)
                continue
            with pytest.raises(ValueError) as caught:
                make(name)
            assert repr(name)[:10] in str(caught.value)

    @pytest.mark.parametrize("name", ["a!b", "websocket.send.0f!1"])
    def test_one_exclamation_mark_goes_in_a_reply_channel_s_name(self, name: str) -> None:
        assert check_name("channel", name, reply=True) == name
        assert Channel(name).name == name
        with pytest.raises(ValueError):
            check_name("channel", name)
        with pytest.raises(ValueError):
            Group(name)

    @pytest.mark.parametrize(
        "name", ["!", "a!", "!a", "a!b!c", "a!!b", "a b!c", "a!b\n", "x" * 60 + "!" + "y" * 60]
    )
    def test_but_in_the_middle_and_once(self, name: str) -> None:
        with pytest.raises(ValueError, match="channel name"):
            Channel(name)

    @pytest.mark.parametrize("name", ["a\n", "\na", "a\0", "ä", "１", "a b", "a/b", "a:b", ""])
    def test_near_misses(self, name: str) -> None:
        with pytest.raises(ValueError, match=re.escape(repr(name))):
            Group(name)

    @pytest.mark.parametrize("name", [None, 5, b"bytes", ["list"], Channel("a")])
    def test_a_name_is_a_string(self, name: Any) -> None:
        for make in (Channel, Group):
            with pytest.raises(TypeError, match="is a string"):
                make(name)

    def test_the_longest(self) -> None:
        assert Group("x" * MAX_NAME_LENGTH).name == "x" * 100
        with pytest.raises(ValueError, match="has 101 characters; at most 100"):
            Group("x" * 101)


class TestChannelObjects:
    def test_are_equal_by_name(self) -> None:
        assert Channel("a") == Channel("a")
        assert Channel("a") != Channel("b")
        assert Channel("a") != "a"
        assert len({Channel("a"), Channel("a"), Channel("b")}) == 2
        assert str(Channel("a")) == "a"
        assert repr(Channel("a")) == "Channel('a')"
        assert repr(Group("a")) == "Group('a')"

    @pytest.mark.parametrize("content", [None, "text", [("text", "a")], b"x", 5])
    async def test_take_dicts_only(self, content: Any) -> None:
        with pytest.raises(TypeError, match="is a dict"):
            await Channel("a").send(content)
        with pytest.raises(TypeError, match="is a dict"):
            await Group("a").send(content)

    async def test_say_so_where_no_layer_runs(self) -> None:
        for send in (Channel("a").send({}), Group("a").send({}), Group("a").members(), Group("a").add("b")):
            with pytest.raises(RuntimeError, match="no channel layer is running here"):
                await send

    def test_outside_trio_too(self) -> None:
        with pytest.raises(RuntimeError):
            Channel("a").send({}).send(None)

"""Routing: what matches, what it is given, and the mistakes that are found when it is built."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan import Channel, Message, include, route, route_class
from triochan.exceptions import ImproperlyConfigured
from triochan.generic import BaseConsumer
from triochan.generic.websockets import WebsocketConsumer
from triochan.routing import Router, import_dotted, name_of


async def first(message: Message, **kwargs: Any) -> None: ...
async def second(message: Message, **kwargs: Any) -> None: ...
async def third(message: Message, **kwargs: Any) -> None: ...
def not_async(message: Message) -> None: ...
async def generator(message: Message) -> Any:
    yield


class Wave(WebsocketConsumer):
    pass


class Named(BaseConsumer):
    method_mapping: ClassVar[dict[str, str]] = {"one.channel": "one", "other.channel": "other"}

    async def one(self, message: Message, **kwargs: Any) -> None: ...
    async def other(self, message: Message, **kwargs: Any) -> None: ...


def message(channel: str = "websocket.connect", **content: Any) -> Message:
    return Message(content, Channel(channel))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A user's module, importable as ``app_of_a_user``."""
    module = ModuleType("app_of_a_user")
    monkeypatch.setitem(sys.modules, "app_of_a_user", module)
    return module


class TestRoute:
    def test_matches_its_channel_only(self) -> None:
        made = route("websocket.connect", first)
        assert made.match(message("websocket.connect")) == (first, {})
        assert made.match(message("websocket.receive")) is None
        assert made.channel_names() == {"websocket.connect"}

    def test_several_channels(self) -> None:
        made = route(["a", "b"], first)
        assert made.channel_names() == {"a", "b"}
        assert made.match(message("a")) == made.match(message("b")) == (first, {})
        assert made.match(message("c")) is None

    def test_filters_are_anchored_at_the_start_only(self) -> None:
        made = route("websocket.connect", first, path="/chat")
        assert made.match(message(path="/chat/and/more")) == (first, {})
        assert made.match(message(path="/the/chat")) is None

    def test_all_filters_must_match_and_named_groups_come_together(self) -> None:
        made = route("http.request", first, method="(?P<verb>GET|HEAD)$", path=r"^/(?P<room>\w+)/$")
        assert made.match(message("http.request", method="GET", path="/a/")) == (
            first,
            {"verb": "GET", "room": "a"},
        )
        assert made.match(message("http.request", method="POST", path="/a/")) is None
        assert made.match(message("http.request", method="GET", path="/a")) is None

    def test_a_missing_key_is_no_match(self) -> None:
        made = route("websocket.connect", first, path=".*", nothing=".*")
        assert made.match(message(path="/")) is None

    @pytest.mark.parametrize("value", [None, ["/"], {"/": 1}, 1.5, object()])
    def test_a_value_that_is_no_text_is_no_match(self, value: Any) -> None:
        assert route("websocket.connect", first, path=".*").match(message(path=value)) is None

    def test_bytes_and_numbers_are_matched_as_text(self) -> None:
        made = route("websocket.connect", first, query_string="token=(?P<token>.*)", order="^0$")
        assert made.match(message(query_string=b"token=\xe9", order=0)) == (first, {"token": "é"})
        assert made.match(message(query_string=b"token=x", order=10)) is None

    def test_an_optional_group_that_took_no_part_is_none(self) -> None:
        made = route("websocket.connect", first, path=r"^/(?P<page>\d+)?")
        assert made.match(message(path="/")) == (first, {"page": None})

    def test_dotted_names(self, app: ModuleType) -> None:
        app.consumer = first  # type: ignore[attr-defined]
        assert route("a", "app_of_a_user.consumer").match(message("a")) == (first, {})
        assert route("a", "app_of_a_user:consumer").match(message("a")) == (first, {})

    def test_callables_that_are_async_in_other_ways(self) -> None:
        class Callable_:
            async def __call__(self, message: Message) -> None: ...

        @functools.wraps(first)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return first(*args, **kwargs)

        for consumer in (Callable_(), functools.partial(first, extra=1), wrapped, Callable_().__call__):
            found = route("a", consumer).match(message("a"))
            assert found is not None
            assert found[0] is consumer or found[0] == consumer

    def test_str_names_channel_filters_and_consumer(self) -> None:
        assert str(route(["b", "a"], first, path="^/x")) == f"a, b path=^/x → {__name__}.first"
        assert str(route("a", first)) == f"a → {__name__}.first"


class TestMistakesInARoute:
    @pytest.mark.parametrize("make", [functools.partial(route, "a", first), functools.partial(include, [])])
    def test_a_positional_group(self, make: Any) -> None:
        with pytest.raises(ValueError, match=r"'path'|path=.*positional group"):
            make(path=r"^/(\d+)/(?P<name>x)$")

    @pytest.mark.parametrize("pattern", ["(", "[a", "(?P<x>a)(?P<x>b)", "*"])
    def test_a_filter_that_is_no_regular_expression(self, pattern: str) -> None:
        with pytest.raises(ValueError, match="no regular expression"):
            route("a", first, path=pattern)

    @pytest.mark.parametrize("pattern", [None, 5, b"^/"])
    def test_a_filter_that_is_no_string(self, pattern: Any) -> None:
        with pytest.raises(ValueError, match="'path'"):
            route("a", first, path=pattern)

    def test_groups_that_do_not_capture_are_fine(self) -> None:
        assert route("websocket.connect", first, path="^/(?:a|b)(?=c)").match(message(path="/ac")) == (
            first,
            {},
        )

    @pytest.mark.parametrize("name", ["", "with space", "a/b", "é", "a!b", "x" * 101])
    def test_a_channel_name_that_is_none(self, name: str) -> None:
        with pytest.raises(ValueError, match="channel name"):
            route(name, first)

    @pytest.mark.parametrize(
        "consumer", [not_async, generator, lambda message: None, functools.partial(not_async)]
    )
    def test_a_handler_that_is_not_async(self, consumer: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"a → .*is not 'async def'"):
            route("a", consumer)

    @pytest.mark.parametrize("consumer", [None, 5, object(), [first]])
    def test_a_consumer_that_is_none(self, consumer: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="not callable"):
            route("a", consumer)

    def test_a_class_that_is_no_consumer(self) -> None:
        class Plain: ...

        with pytest.raises(ImproperlyConfigured, match=r"Plain is a class without a method_mapping"):
            route("a", Plain)

    def test_a_mapping_to_a_method_that_is_not_there(self) -> None:
        class Broken(BaseConsumer):
            method_mapping: ClassVar[dict[str, str]] = {"x.y": "missing"}

        for make in (route_class, functools.partial(route, "x.y")):
            with pytest.raises(ImproperlyConfigured, match=r"'x.y' to 'missing'.*Broken"):
                make(Broken)

    def test_a_mapping_to_a_method_that_is_not_async(self) -> None:
        class Broken(BaseConsumer):
            method_mapping: ClassVar[dict[str, str]] = {"x.y": "handle"}

            def handle(self, message: Message) -> None: ...

        with pytest.raises(ImproperlyConfigured, match=r"Broken\.handle is not 'async def'"):
            route_class(Broken)

    @pytest.mark.parametrize("name", ["connect", "receive", "disconnect"])
    def test_a_websocket_handler_that_is_not_async(self, name: str) -> None:
        broken = type("Broken", (WebsocketConsumer,), {name: lambda self, *args, **kwargs: None})
        with pytest.raises(ImproperlyConfigured, match=rf"Broken\.{name} is not 'async def'"):
            route_class(broken)

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("app_of_a_user.missing", "module 'app_of_a_user' has no 'missing'"),
            ("no_such_module_anywhere.consumer", "no module 'no_such_module_anywhere'"),
            ("app_of_a_user.sub.consumer", "no module 'app_of_a_user.sub'"),
            ("consumer", "no dotted name"),
            ("", "no dotted name"),
            ("module.", "no dotted name"),
            (".name", "no dotted name"),
            ("..name", "no dotted name"),
            (".module.name", "no dotted name"),
            ("os..path", "os"),
            ("a b.c", "a b"),
        ],
    )
    def test_a_dotted_name_that_leads_nowhere(self, app: ModuleType, name: str, reason: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=reason):
            import_dotted(name)

    def test_what_the_module_itself_raises_goes_through(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "broken_app_a.py").write_text("1 / 0\n")
        (tmp_path / "broken_app_b.py").write_text("import a_module_it_needs\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ZeroDivisionError):
            import_dotted("broken_app_a.routing")
        with pytest.raises(ModuleNotFoundError, match="a_module_it_needs"):
            import_dotted("broken_app_b.routing")


class TestRouteClass:
    def test_listens_on_what_the_class_says(self) -> None:
        assert route_class(Named).channel_names() == {"one.channel", "other.channel"}
        assert route_class(Wave).channel_names() == {
            "websocket.connect",
            "websocket.receive",
            "websocket.disconnect",
        }

    def test_a_function_is_told_how_it_goes(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"test_routing\.first; .*route\(channel"):
            route_class(first)

    def test_by_dotted_name(self, app: ModuleType) -> None:
        app.Wave = Wave  # type: ignore[attr-defined]
        found = route_class("app_of_a_user.Wave", path="^/x").match(message(path="/x"))
        assert found == (Wave, {})

    def test_as_route_takes_attributes_without_touching_the_class(self) -> None:
        found = Wave.as_route({"strict_ordering": True}, path="^/x").match(message(path="/x"))
        assert found is not None
        consumer, _ = found
        assert isinstance(consumer, type)
        assert issubclass(consumer, Wave)
        assert consumer.strict_ordering
        assert consumer.__name__ == "Wave"
        assert not Wave.strict_ordering

    def test_as_route_may_change_the_mapping(self) -> None:
        assert Named.as_route({"method_mapping": {"third": "one"}}).channel_names() == {"third"}
        with pytest.raises(ImproperlyConfigured, match="nowhere"):
            Named.as_route({"method_mapping": {"third": "nowhere"}})

    def test_as_route_s_attributes_are_a_mapping(self) -> None:
        with pytest.raises(TypeError, match="mapping"):
            Named.as_route(["strict_ordering"])  # type: ignore[arg-type]


class TestInclude:
    def test_strips_what_its_prefix_matched_on_a_copy(self) -> None:
        made = include([route("websocket.connect", first, path="^/room$")], path="^/chat")
        sent = message(path="/chat/room")
        assert made.match(sent) == (first, {})
        assert sent["path"] == "/chat/room"
        assert made.match(message(path="/other/room")) is None
        assert made.match(message(path="/chat/other")) is None

    def test_nests(self) -> None:
        inner = include([route("websocket.connect", first, path="^/c$")], path="^/(?P<b>b)")
        made = include([inner], path="^/(?P<a>a)")
        assert made.match(message(path="/a/b/c")) == (first, {"a": "a", "b": "b"})
        assert made.match(message(path="/b/c")) is None

    def test_a_route_s_arguments_override_the_include_s(self) -> None:
        made = include([route("websocket.connect", first, path="^/(?P<name>.*)")], path="^/(?P<name>[^/]*)")
        assert made.match(message(path="/outer/inner")) == (first, {"name": "inner"})

    def test_arguments_of_a_route_that_did_not_match_do_not_stay(self) -> None:
        made = include(
            [
                include([route("websocket.connect", first, path="^/never")], path="^(?P<lost>/a)"),
                route("websocket.connect", second, path="^/a"),
            ]
        )
        assert made.match(message(path="/a/b")) == (second, {})

    def test_all_prefixes_must_match_and_a_missing_key_is_no_match(self) -> None:
        made = include([route("websocket.connect", first)], path="^/a", host="^x")
        assert made.match(message(path="/a", host="x")) == (first, {})
        assert made.match(message(path="/a", host="y")) is None
        assert made.match(message(path="/a")) is None

    def test_without_a_prefix_nothing_is_touched(self) -> None:
        seen: list[Message] = []

        class Any_:
            def match(self, message: Message) -> None:
                seen.append(message)

            def channel_names(self) -> set[str]:
                return {"a"}

        sent = message("a", path="/")
        assert include([Any_()]).match(sent) is None
        assert seen == [sent]

    def test_takes_mappings_and_dotted_names(self, app: ModuleType) -> None:
        app.routing = [route("a", first)]  # type: ignore[attr-defined]
        app.mapping = {"a": "app_of_a_user.consumer"}  # type: ignore[attr-defined]
        app.consumer = second  # type: ignore[attr-defined]
        assert include("app_of_a_user.routing").match(message("a")) == (first, {})
        assert include("app_of_a_user.mapping").match(message("a")) == (second, {})
        assert include({"a": third, "b": first}).channel_names() == {"a", "b"}
        assert include(iter([route("a", first)])).match(message("a")) == (first, {})

    @pytest.mark.parametrize(
        ("routing", "reason"),
        [
            (None, "a routing is a list"),
            (5, "a routing is a list"),
            (b"app.routing", "a routing is a list"),
            ([first], r"entry 0 .*test_routing\.first.*no route"),
            ([route("a", first), None], "entry 1 "),
            ([Wave], r"entry 0 .*Wave"),
            ([[route("a", first)]], "entry 0 .*list"),
            (["app.consumer"], "entry 0 "),
        ],
    )
    def test_something_that_is_no_routing(self, routing: Any, reason: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=reason):
            include(routing)

    def test_a_routing_by_name_that_is_none_says_the_name(self, app: ModuleType) -> None:
        app.routing = 5  # type: ignore[attr-defined]
        with pytest.raises(ImproperlyConfigured, match=r"app_of_a_user\.routing"):
            include("app_of_a_user.routing")

    def test_matching_is_pure(self) -> None:
        made = include([route("websocket.connect", first, path="^(?P<rest>.*)")], path="^/a")
        sent = message(path="/a/a/a")
        assert made.match(sent) == made.match(sent) == (first, {"rest": "/a/a"})

    @given(st.text("ab/", max_size=8), st.text("ab/", max_size=8))
    def test_a_literal_prefix_and_the_rest_come_apart_as_they_were_put_together(
        self, one: str, two: str
    ) -> None:
        made = include([route("websocket.connect", first, path="^(?P<rest>.*)$")], path=f"^{one}")
        assert made.match(message(path=one + two)) == (first, {"rest": two})


class TestRouter:
    def test_the_first_match_wins(self) -> None:
        router = Router(
            [
                route("websocket.connect", first, path="^/a$"),
                include([route("websocket.connect", second)], path="^/a"),
                route("websocket.connect", third),
            ]
        )
        assert router.match(message(path="/a")) == (first, {})
        assert router.match(message(path="/ab")) == (second, {})
        assert router.match(message(path="/")) == (third, {})
        assert router.match(message("websocket.receive", path="/a")) is None
        assert router.channels == {"websocket.connect"}

    def test_an_empty_routing_matches_nothing(self) -> None:
        assert Router([]).match(message(path="/")) is None
        assert Router([]).channels == frozenset()

    def test_partly_passes_over_filters_on_what_the_message_lacks(self) -> None:
        router = Router(
            [
                route("websocket.receive", first, path="^/a", text="^hello"),
                route("websocket.receive", second, path="^/b"),
            ]
        )
        assert router.match(message("websocket.receive", path="/a")) is None
        assert router.match(message("websocket.receive", path="/a"), partly=True) == (first, {})
        assert router.match(message("websocket.receive", path="/a", text="bye"), partly=True) is None
        assert router.match(message("websocket.receive", path="/c"), partly=True) is None

    def test_consumers_are_those_of_routes_and_includes(self) -> None:
        class Own:
            def match(self, message: Message) -> None: ...

            def channel_names(self) -> set[str]:
                return {"x"}

        router = Router([route("a", first), include([route("b", second), Own()], path="x"), Own()])
        assert sorted(map(name_of, router.consumers())) == sorted(map(name_of, (first, second)))

    def test_keys_matched_are_all_that_may_decide(self) -> None:
        inner = include([route("a", first, path="x")], order="1")
        router = Router([inner, route(["a", "b"], second, text="y"), route("c", third)])
        assert router.keys_matched("a") == frozenset({"path", "order", "text"})
        assert router.keys_matched("b") == frozenset({"text"})
        assert router.keys_matched("c") == frozenset()
        assert router.keys_matched("unknown") == frozenset()

    def test_keys_matched_are_unknown_where_a_route_is_the_program_s_own(self) -> None:
        class Own:
            def match(self, message: Message) -> Any:
                return first, {"a": 1}

            def channel_names(self) -> set[str]:
                return {"a"}

        class Mine(route):
            def match(self, message: Message, *, partly: bool = False) -> Any:
                return super().match(message, partly=partly)

        router = Router([include([Own()]), Mine("b", second), route("c", third)])
        assert router.match(message("a")) == (first, {"a": 1})
        assert router.keys_matched("a") is None
        assert router.keys_matched("b") is None
        assert router.keys_matched("c") == frozenset()

    def test_describe_unfolds_includes(self) -> None:
        lines = Router([include([route("a", first, path="^/x")], path="^/y"), route("b", second)]).describe()
        assert lines == [
            "path=^/y → 1 routes",
            f"  a path=^/x → {__name__}.first",
            f"b → {__name__}.second",
        ]


def test_name_of_says_where_a_thing_is() -> None:
    assert name_of(first) == f"{__name__}.first"
    assert name_of(Wave) == f"{__name__}.Wave"
    assert name_of(Wave.connect) == f"{WebsocketConsumer.__module__}.WebsocketConsumer.connect"
    assert name_of(functools.partial(first)) == f"partial({__name__}.first)"
    assert name_of(5) == "int 5"
    assert len(name_of("x" * 1000)) < 100


class NeverMine:
    def match(self, message: Message) -> None:
        return None

    def channel_names(self) -> set[str]:
        return {"websocket.connect"}

    def __str__(self) -> str:
        return "never mine"


def test_why_no_route_takes_a_message() -> None:
    router = Router(
        [
            route("http.request", first, path="^/other$"),
            route("websocket.connect", first, path="^/one$", scheme="^wss$"),
            include([route("websocket.connect", first, path="^/two$")], path="^/deep"),
            include([route("websocket.connect", first, path="^/three$"), NeverMine()], path="^/chat"),
            NeverMine(),
        ]
    )
    told = router.explain(message(path="/chat/four", scheme="ws"))
    assert [line.rpartition(": ")[2] for line in told] == [
        "path is '/chat/four', scheme is 'ws'",
        "path is '/chat/four'",
        "path is '/four'",
        "it says no",
        "it says no",
    ]
    assert told[3].startswith("path=^/chat → 2 routes: never mine")
    assert router.explain(Message({}, Channel("jobs"))) == []


def test_a_class_of_the_program_s_own_with_a_method_mapping() -> None:
    class Plain:
        method_mapping: ClassVar[dict[str, str]] = {"jobs": "take"}

        @classmethod
        def channel_names(cls) -> set[str]:
            return set(cls.method_mapping)

        async def take(self, message: Message) -> None: ...

    assert route_class(Plain).channels == {"jobs"}

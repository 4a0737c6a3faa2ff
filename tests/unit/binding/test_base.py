"""Bindings, over a collection: what clients see of changes, what they may change, and what bad input gets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from uuid import UUID, uuid4

import attrs
import pytest
import trio
from trio.testing import MockClock

from triochan import Application, Message, route, route_class
from triochan.auth import login
from triochan.binding import CREATE, DELETE, UPDATE, Binding, ChangeRefused
from triochan.binding.collections import Collection
from triochan.binding.websockets import WebsocketBinding, WebsocketBindingWithMembers
from triochan.exceptions import ImproperlyConfigured
from triochan.generic.websockets import WebsocketDemultiplexer
from triochan.test import Client, TestWebsocket


@attrs.frozen
class User:
    username: str
    email: str = ""
    password: str = "hunter2"
    last_name: str = ""
    id: int | None = None


@attrs.frozen
class Thing:
    id: UUID
    name: str = attrs.field(validator=attrs.validators.max_len(20))


def binding(
    model: Any, *, groups: Any = ("users",), permitted: Any = True, **attributes: Any
) -> type[WebsocketBinding]:
    """A binding on the stream "users" that lets anybody do anything, unless told otherwise."""

    def group_names(cls: Any, instance: Any) -> Any:
        return groups(instance) if callable(groups) else groups

    def has_permission(self: Any, user: Any, action: str, pk: Any) -> Any:
        return permitted(self, user, action, pk) if callable(permitted) else permitted

    body = {"group_names": classmethod(group_names), "has_permission": has_permission}
    base = attributes.pop("base", WebsocketBinding)
    if "exclude" not in attributes:
        attributes.setdefault("fields", "__all__")
    return type("UserBinding", (base,), {"model": model, "stream": "users", **body, **attributes})


@asynccontextmanager
async def socket(
    bound: type[Binding] | None,
    *groups: str,
    mapping: bool = False,
    application: dict[str, Any] | None = None,
) -> AsyncIterator[TestWebsocket]:
    """A client in ``groups`` whose stream "users" is the binding's, through a named channel where ``mapping``."""
    consumers = {} if bound is None or mapping else {"users": bound.consumer}
    attributes: dict[str, Any] = {"consumers": consumers, "groups": groups}
    if mapping:
        attributes["mapping"] = {"users": "binding.users"}
    demultiplexer: type[WebsocketDemultiplexer] = type("Demultiplexer", (WebsocketDemultiplexer,), attributes)
    routing: list[Any] = [demultiplexer.as_route(path="^/$")]
    if mapping and bound is not None:
        routing.append(route("binding.users", bound.consumer))
    async with (
        Client(Application(routing, **application or {})) as client,
        client.websocket("/") as websocket,
    ):
        yield websocket


async def ask(websocket: TestWebsocket, **payload: Any) -> None:
    await websocket.send_json({"stream": "users", "payload": payload})


async def payload(websocket: TestWebsocket) -> Any:
    with trio.fail_after(5):
        frame = await websocket.receive_json()
    assert frame["stream"] == "users"
    return frame["payload"]


async def refusal(websocket: TestWebsocket) -> tuple[str, str]:
    with trio.fail_after(5):
        frame = await websocket.receive_json()
    assert frame["stream"] == "users"
    assert "payload" not in frame
    return frame["error"], "\n".join(frame.get("details", ()))


async def silent(websocket: TestWebsocket) -> None:
    with trio.move_on_after(1) as scope:
        raise AssertionError(await websocket.receive())
    assert scope.cancelled_caught


# -- outbound


async def test_create_update_and_delete_are_sent(autojump_clock: MockClock) -> None:
    users = Collection(User, label="auth.user")
    bound = binding(users, fields=["username", "email", "last_name"])
    async with socket(bound, "users") as websocket:
        user = await users.insert(User("test", "test@example.com"))
        expected: dict[str, Any] = {
            "action": CREATE,
            "pk": user.id,
            "model": "auth.user",
            "data": {"username": "test", "email": "test@example.com", "last_name": ""},
        }
        assert await payload(websocket) == expected
        await users.update(user.id, username="other")
        expected["action"], expected["data"]["username"] = UPDATE, "other"
        assert await payload(websocket) == expected
        await users.delete(user.id)
        assert await payload(websocket) == {**expected, "action": DELETE}
        await silent(websocket)


async def test_a_key_that_is_no_number(autojump_clock: MockClock) -> None:
    things = Collection(Thing)
    bound = binding(things, fields=["name"])
    async with socket(bound, "users") as websocket:
        thing = await things.insert(Thing(uuid4(), "testname"))
        sent = await payload(websocket)
        assert (sent["pk"], sent["model"], sent["data"]) == (
            str(thing.id),
            "test_base.thing",
            {"name": "testname"},
        )
        await ask(websocket, action=UPDATE, pk=str(thing.id), data={"name": "other"})
        assert (await payload(websocket))["data"] == {"name": "other"}
        await ask(websocket, action=UPDATE, pk="no uuid", data={"name": "other"})
        assert await refusal(websocket) == ("invalid data", '$.pk: a UUID is expected, not "no uuid"')


async def test_what_is_excluded_is_not_sent(autojump_clock: MockClock) -> None:
    users = Collection(User)
    async with socket(binding(users, exclude=["last_name", "password"]), "users") as websocket:
        await users.insert(User("test"))
        assert (await payload(websocket))["data"] == {"username": "test", "email": ""}


@pytest.mark.parametrize("everything", ["__all__", ["__all__"], ("__all__",)])
async def test_everything_is_sent_if_that_is_said(autojump_clock: MockClock, everything: Any) -> None:
    users = Collection(User)
    async with socket(binding(users, fields=everything), "users") as websocket:
        await users.insert(User("test"))
        assert set((await payload(websocket))["data"]) == {"username", "email", "password", "last_name"}


async def test_a_change_of_groups_is_a_create_here_and_a_delete_there(autojump_clock: MockClock) -> None:
    users = Collection(User)
    bound = binding(users, fields=["username", "last_name"], groups=lambda user: user.email.split())
    user = await users.insert(User("test", "old both"))
    routing = [
        route_class(type("Demultiplexer", (WebsocketDemultiplexer,), {"groups": [name]}), path=f"^/{name}$")
        for name in ("old", "both", "new")
    ]
    async with (
        Client(routing) as client,
        client.websocket("/old") as old,
        client.websocket("/both") as both,
        client.websocket("/new") as new,
    ):
        await users.update(user.id, email="both new", last_name="a secret of the new")
        # Who sees it no longer is told what they knew, and nothing of what it has become.
        left = await payload(old)
        assert (left["action"], left["data"]) == (DELETE, {"username": "test", "last_name": ""})
        for websocket, action in ((both, UPDATE), (new, CREATE)):
            sent = await payload(websocket)
            assert (sent["action"], sent["data"]["last_name"]) == (action, "a secret of the new")
        await users.update(user.id, email="")
        assert (await payload(both))["action"] == (await payload(new))["action"] == DELETE
        await users.delete(user.id)
        for websocket in (old, both, new):
            await silent(websocket)
    assert bound.names_of(user) == {"old", "both"}


async def test_two_bindings_of_a_model(autojump_clock: MockClock) -> None:
    users = Collection(User)
    binding(users, fields=["username"])
    binding(users, fields=["email"], stream="others", model_label="a.b")
    async with socket(None, "users") as websocket:
        await users.insert(User("test"))
        assert (await payload(websocket))["data"] == {"username": "test"}
        second = await websocket.receive_json()
        assert second == {
            "stream": "others",
            "payload": {"action": CREATE, "pk": 1, "data": {"email": ""}, "model": "a.b"},
        }


async def test_no_payload_no_message(autojump_clock: MockClock) -> None:
    users = Collection(User)
    bound = binding(users)
    bound.serialize = lambda self, instance, action: {}  # type: ignore[method-assign]
    async with socket(bound, "users") as websocket:
        await users.insert(User("test"))
        await silent(websocket)


@pytest.mark.parametrize("names", ["users", ["no such name!"]])
async def test_what_group_names_does_wrong_stops_the_change(autojump_clock: MockClock, names: Any) -> None:
    users = Collection(User)
    binding(users, groups=names)
    with pytest.raises((ImproperlyConfigured, ValueError)):
        await users.insert(User("test"))
    assert len(users) == 0


async def test_members(autojump_clock: MockClock) -> None:
    @attrs.frozen
    class Value:
        number: int = 1
        id: int | None = None
        unit = 3

        @property
        def plus(self) -> int:
            return self.number + self.unit

        def minus(self) -> int:
            return self.number - self.unit

        @property
        def owner(self) -> User:
            return User("ada", id=7)

        async def later(self) -> int:
            return 1

    values = Collection(Value)
    members = ["unit", "plus", "minus", "owner.username"]
    binding(values, base=WebsocketBindingWithMembers, send_members=members)
    async with socket(None, "users") as websocket:
        await values.insert(Value())
        expected = {"number": 1, "unit": 3, "plus": 4, "minus": -2, "owner__username": "ada"}
        assert (await payload(websocket))["data"] == expected
        binding(values, base=WebsocketBindingWithMembers, send_members=["later"])
        with pytest.raises(TypeError, match="async"):
            await values.insert(Value())
    with pytest.raises(ImproperlyConfigured, match="not one string"):
        binding(values, base=WebsocketBindingWithMembers, send_members="unit")


async def test_a_list_and_then_every_change(autojump_clock: MockClock) -> None:
    users = Collection(User)
    bound = binding(users, fields=["username"], groups=lambda user: ["users" if user.email else "nobody"])
    await users.insert(User("seen", "@"))
    await users.insert(User("unseen"))

    class Demultiplexer(WebsocketDemultiplexer):
        groups = ["users"]

        async def connect(self, message: Message, **kwargs: Any) -> None:
            await bound.send_list(message, self.groups)

    async with Client([Demultiplexer.as_route()]) as client, client.websocket("/") as websocket:
        assert await payload(websocket) == {
            "action": "list",
            "model": "test_base.user",
            "items": [{"pk": 1, "data": {"username": "seen"}}],
        }
        await users.update(2, email="@")
        assert (await payload(websocket))["action"] == CREATE


# -- inbound


@pytest.mark.parametrize("mapping", [False, True], ids=["consumers", "mapping"])
async def test_inbound(autojump_clock: MockClock, mapping: bool) -> None:
    users = Collection(User)
    bound = binding(users, fields=["username", "email"])
    async with socket(bound, "users", mapping=mapping) as websocket:
        await ask(websocket, action=CREATE, data={"username": "inbound", "email": "a@example.com"})
        sent = await payload(websocket)
        assert sent["action"] == CREATE
        assert list(users) == [User("inbound", "a@example.com", id=sent["pk"])]

        await ask(websocket, action=UPDATE, pk=sent["pk"], data={"username": "changed"})
        assert (await payload(websocket))["data"] == {"username": "changed", "email": "a@example.com"}

        # A field that is not among the binding's.
        await ask(websocket, action=UPDATE, pk=sent["pk"], data={"username": "x", "password": "123"})
        assert await refusal(websocket) == ("invalid data", "$.data.password: no field that can be set here")
        assert list(users) == [User("changed", "a@example.com", id=sent["pk"])]

        await ask(websocket, action=DELETE, pk=sent["pk"])
        assert (await payload(websocket))["action"] == DELETE
        assert list(users) == []
        await silent(websocket)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "unknown action", "null"),
    ({"action": "destroy", "pk": 1}, "unknown action", '"destroy"'),
    ({"action": ["update"], "pk": 1}, "unknown action", "an array"),
    ({"action": CREATE}, "invalid data", "$.data: an object is expected, not null"),
    ({"action": CREATE, "data": []}, "invalid data", "$.data: an object is expected, not an array"),
    ({"action": CREATE, "data": {}}, "invalid data", "$.data.username: missing"),
    (
        {"action": CREATE, "data": {"username": 1}},
        "invalid data",
        "$.data.username: a string is expected, not 1",
    ),
    ({"action": CREATE, "data": {"username": "a", "id": 7}}, "invalid data", "$.data.id: no field"),
    (
        {"action": CREATE, "data": {"username": "a", "__class__": 7}},
        "invalid data",
        "$.data.__class__: no field",
    ),
    (
        {"action": UPDATE, "data": {"username": "a"}},
        "invalid data",
        "$.pk: a whole number is expected, not null",
    ),
    ({"action": UPDATE, "pk": "1", "data": {"username": "a"}}, "invalid data", "$.pk"),
    ({"action": UPDATE, "pk": True, "data": {"username": "a"}}, "invalid data", "$.pk"),
    ({"action": UPDATE, "pk": {}, "data": {"username": "a"}}, "invalid data", "$.pk"),
    ({"action": UPDATE, "pk": 99, "data": {"username": "a"}}, "no such object", ""),
    ({"action": UPDATE, "pk": 1}, "invalid data", "$.data"),
    ({"action": UPDATE, "pk": 1, "data": "x"}, "invalid data", "$.data"),
    ({"action": UPDATE, "pk": 1, "data": {"username": None}}, "invalid data", "$.data.username"),
    ({"action": UPDATE, "pk": 1, "data": {"id": 2}}, "invalid data", "$.data.id: no field"),
    ({"action": UPDATE, "pk": 1, "data": {"x" * 5000: 2}}, "invalid data", "$.data.xxx"),
    ({"action": DELETE}, "invalid data", "$.pk"),
    ({"action": DELETE, "pk": 99}, "no such object", ""),
    ({"action": DELETE, "pk": [1]}, "invalid data", "$.pk"),
]


@pytest.mark.parametrize("mapping", [False, True], ids=["consumers", "mapping"])
async def test_bad_input_is_answered_and_changes_nothing(autojump_clock: MockClock, mapping: bool) -> None:
    users = Collection(User)
    await users.insert(User("there"))
    before = list(users)
    bound = binding(users)
    async with socket(bound, "users", mapping=mapping) as websocket:
        for asked, error, details in BAD:
            await ask(websocket, **asked)
            answer = await refusal(websocket)
            assert answer[0] == error, asked
            assert details in answer[1], asked
            assert len(answer[1]) < 2000
            assert list(users) == before
        frames: list[Any] = [
            [],
            {"stream": "users"},
            {"stream": "x", "payload": {}},
            {"stream": "users", "payload": [1]},
        ]
        for frame in frames:
            await websocket.send_json(frame)
            assert "error" in await websocket.receive_json()
        await ask(websocket, action=DELETE, pk=1)  # the socket has stayed
        assert (await payload(websocket))["action"] == DELETE


@pytest.mark.parametrize("mapping", [False, True])
@pytest.mark.parametrize("error", [ValueError("a secret"), UnicodeError("a secret")])
async def test_a_deserialize_of_one_s_own_that_raises_is_answered(
    error: Exception, mapping: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """As a codec's: one line in the log, and nothing of it for the client."""

    def deserialize(self: Any, message: Message) -> Any:
        raise error

    users = Collection(User, label="auth.user")
    async with socket(binding(users, deserialize=deserialize), "users", mapping=mapping) as websocket:
        for _ in range(2):
            await ask(websocket, action="create", pk=None, data={"username": "ada"})
            assert await refusal(websocket) == ("invalid data", "")
    assert len(users) == 0
    lines = [entry.getMessage() for entry in caplog.records]
    assert len(lines) == 2
    assert all("UserBinding.deserialize on " in line and "a secret" in line for line in lines)
    assert all(entry.exc_info is None for entry in caplog.records)


async def test_nothing_is_permitted_unless_it_is_said(autojump_clock: MockClock) -> None:
    users = Collection(User)
    await users.insert(User("there"))
    bound = binding(users)
    del bound.has_permission
    async with socket(bound, "users") as websocket:
        for asked in ({"action": CREATE, "data": {"username": "a"}}, {"action": DELETE, "pk": 1}):
            await ask(websocket, **asked)
            assert (await refusal(websocket))[0] == "not permitted"
        # Whether there is such an object is nobody's business either.
        await ask(websocket, action=DELETE, pk=99)
        assert (await refusal(websocket))[0] == "not permitted"
    assert list(users) == [User("there", id=1)]


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
async def test_permission_is_asked_with_user_action_and_pk(autojump_clock: MockClock, is_async: bool) -> None:
    users = Collection(User)
    asked: list[Any] = []

    def decide(self: Any, user: Any, action: str, pk: Any) -> bool:
        asked.append((user.is_anonymous, action, pk, self.data))
        return action != DELETE

    async def decide_later(*args: Any) -> bool:
        await trio.sleep(0.1)
        return decide(*args)

    bound = binding(users, permitted=decide_later if is_async else decide)
    async with socket(bound, "users") as websocket:
        await ask(websocket, action=CREATE, pk="of no interest", data={"username": "a"})
        assert (await payload(websocket))["action"] == CREATE
        await ask(websocket, action=UPDATE, pk=1, data={"email": "b"})
        assert (await payload(websocket))["action"] == UPDATE
        await ask(websocket, action=DELETE, pk=1, data={"ignored": True})
        assert (await refusal(websocket))[0] == "not permitted"
    assert asked == [
        (True, CREATE, None, {"username": "a"}),
        (True, UPDATE, 1, {"email": "b"}),
        (True, DELETE, 1, {"ignored": True}),
    ]
    assert len(users) == 1


@pytest.mark.parametrize("mapping", [False, True], ids=["consumers", "mapping"])
async def test_the_user_is_the_connections(autojump_clock: MockClock, mapping: bool) -> None:
    users = Collection(User)
    seen: list[str] = []

    def decide(self: Any, user: Any, action: str, pk: Any) -> bool:
        seen.append(user.username)
        return True

    async def load(session: Any) -> Any:
        return User("ada", id=session["user_id"])

    bound = binding(users, permitted=decide)

    class Demultiplexer(WebsocketDemultiplexer):
        groups = ["users"]
        channel_session_user = True

        async def connect(self, message: Message, **kwargs: Any) -> None:
            await login(message, User("ada", id=7))

    own = {"mapping": {"users": "binding.users"}} if mapping else {"consumers": {"users": bound.consumer}}
    cls: type[Demultiplexer] = type("Own", (Demultiplexer,), own)
    routing = [cls.as_route(), route("binding.users", bound.consumer)]
    async with Client(Application(routing, user_loader=load)) as client, client.websocket("/") as websocket:
        await ask(websocket, action=CREATE, data={"username": "a"})
        await payload(websocket)
    assert seen == ["ada"]


async def test_routing_arguments_and_validators(autojump_clock: MockClock) -> None:
    things = Collection(Thing)
    kwargs: list[Any] = []

    class ThingBinding(WebsocketBinding):
        model = things
        stream = "users"
        fields = ["id", "name"]

        @classmethod
        def group_names(cls, instance: Thing) -> list[str]:
            return ["users"]

        def has_permission(self, user: Any, action: str, pk: Any) -> bool:
            kwargs.append({key: value for key, value in self.kwargs.items() if key != "multiplexer"})
            return True

        async def delete(self, pk: Any) -> None:
            raise ChangeRefused("not on a Sunday")

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"users": ThingBinding.consumer}
        groups = ["users"]

    async with Client([Demultiplexer.as_route(path=r"^/path/(?P<id>\d+)$")]) as client:
        async with client.websocket("/path/789") as websocket:
            key = str(uuid4())
            # A key that is among the fields is set when the object is made, and stays.
            await ask(websocket, action=CREATE, data={"id": key, "name": "a"})
            assert (await payload(websocket))["data"] == {"id": key, "name": "a"}
            assert kwargs == [{"id": "789"}]
            await ask(websocket, action=CREATE, data={"id": key, "name": "b"})
            assert await refusal(websocket) == ("invalid data", "$.data.id: there is one already")
            await ask(websocket, action=UPDATE, pk=key, data={"id": str(uuid4())})
            assert (await refusal(websocket))[1] == "$.data.id: no field that can be set here"
            await ask(websocket, action=UPDATE, pk=key, data={"name": "x" * 21})
            error, details = await refusal(websocket)
            assert error == "invalid data"
            assert "20" in details
            await ask(websocket, action=DELETE, pk=key)
            assert await refusal(websocket) == ("not on a Sunday", "")
    assert [each.name for each in things] == ["a"]


async def test_the_asker_may_be_gone_by_then(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    users = Collection(User)

    async def decide(*args: Any) -> bool:
        await trio.sleep(1)
        return False

    async with socket(binding(users, permitted=decide), "users", mapping=True) as websocket:
        await ask(websocket, action=DELETE, pk=1)
        await trio.sleep(0.1)
        await websocket.vanish()
        await trio.sleep(2)
    assert caplog.records == []


def test_ordering_and_users_are_asked_of_the_connection() -> None:
    users = Collection(User)

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"users": binding(users, strict_ordering=True).consumer}

    assert Demultiplexer.strict_ordering
    assert Demultiplexer.channel_session_user


async def test_what_no_field_stands_for_is_not_told(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    users = Collection(User)
    bound = binding(users, fields=["email"])  # and so without a username
    async with socket(bound, "users") as websocket:
        await ask(websocket, action=CREATE, data={"email": "a@example.com"})
        assert await refusal(websocket) == ("invalid data", "")
    assert "username" in caplog.text


# -- mistakes in a class


def test_mistakes_are_found_when_the_class_is_made() -> None:
    users = Collection(User)
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"fields": None, "exclude": None}, "neither fields nor exclude"),
        ({"fields": ["username"], "exclude": ["email"]}, "both fields and exclude"),
        ({"fields": "username"}, r"write \['username'\]"),
        ({"exclude": "username"}, r"write \['username'\]"),
        ({"fields": ["user_name"]}, "has no field 'user_name'; it has username, email"),
        ({"exclude": ["pasword"]}, "has no field 'pasword'"),
        ({"stream": None}, "stream is the name of a stream"),
        ({"stream": 7}, "stream is the name of a stream"),
        ({"model": User}, "is a Collection, or database.model"),
    ]
    for attributes, complaint in mistakes:
        with pytest.raises(ImproperlyConfigured, match=complaint):
            binding(**{"model": users, **attributes})
    assert users.observers == []


def test_a_base_for_other_bindings_says_so() -> None:
    users = Collection(User)
    with pytest.raises(ImproperlyConfigured, match="model = None"):

        class Forgotten(WebsocketBinding):
            stream = "users"

    class Base(WebsocketBinding):
        model: ClassVar[Any] = None
        stream = "users"

        @classmethod
        def group_names(cls, instance: Any) -> list[str]:
            return []

    class Users(Base):
        model = users
        exclude = ["password"]

    class Others(WebsocketBinding):
        model: ClassVar[Any] = None

    with pytest.raises(ImproperlyConfigured, match="who is to see"):

        class Nobody(Others):
            model = users
            stream = "users"
            exclude: ClassVar[list[str]] = []

    assert users.observers == [Users]

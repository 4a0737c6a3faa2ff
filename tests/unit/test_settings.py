"""Settings: the defaults that were promised, and what is refused when they are made."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from triochan import Settings
from triochan.exceptions import ImproperlyConfigured
from triochan.settings import by_glob

WHOLE = [
    each.name
    for each in attrs.fields(Settings)
    if type(each.default) is int and each.name not in ("channel_capacity", "channel_bytes")
]
TIMES = [
    each.name
    for each in attrs.fields(Settings)
    if type(each.default) is float and each.name != "channel_expiry"
]


class TestDefaults:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_head_size", 16 * 1024),
            ("head_timeout", 10),
            ("max_body_size", 1024**2),
            ("max_message_size", 1024**2),
            ("max_connections", None),
            ("handshake_timeout", 10),
            ("ping_interval", 20),
            ("ping_timeout", 20),
            ("inbox_limit", 64),
            ("inbox_bytes", 1024**2),
            ("stall_timeout", 30),
            ("max_overlap", 8),
            ("handler_timeout", None),
            ("disconnect_timeout", 10),
            ("outbox_limit", 1024**2),
            ("overflow", "close"),
            ("channel_capacity", 100),
            ("channel_bytes", 16 * 1024**2),
            ("channel_expiry", 60),
            ("shutdown_timeout", 30),
        ],
    )
    def test_are_those_of_the_documentation(self, name: str, value: Any) -> None:
        assert getattr(Settings(), name) == value

    def test_every_field_says_what_it_is_for_and_in_which_unit(self) -> None:
        for field in attrs.fields(Settings):
            assert field.metadata["help"]
            assert field.metadata["unit"] in ("", "s", "bytes")

    def test_every_default_passes_its_own_check(self) -> None:
        made = Settings(**attrs.asdict(Settings()))
        assert made == Settings()


def only(name: str, value: Any) -> dict[str, Any]:
    """One field, as keyword arguments."""
    return {name: value}


class TestChecks:
    def test_there_are_fields_to_check(self) -> None:
        assert len(WHOLE) >= 8
        assert len(TIMES) >= 10

    @pytest.mark.parametrize("name", WHOLE)
    @pytest.mark.parametrize("value", ["5", 1.5, True, None, math.inf, [1]])
    def test_a_whole_number_is_one(self, name: str, value: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match=rf"Settings\.{name} takes a whole number, not"):
            Settings(**only(name, value))

    @pytest.mark.parametrize("name", TIMES)
    @pytest.mark.parametrize("value", ["5", True, None, [1], math.nan, -1, -0.001, -math.inf])
    def test_a_time_is_a_number_that_is_not_negative(self, name: str, value: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match=rf"Settings\.{name}"):
            Settings(**only(name, value))

    @pytest.mark.parametrize("name", TIMES)
    def test_a_time_may_be_whole_or_without_end(self, name: str) -> None:
        assert getattr(Settings(**only(name, 5)), name) == 5
        assert getattr(Settings(**only(name, math.inf)), name) == math.inf

    @pytest.mark.parametrize("name", WHOLE)
    def test_a_whole_number_has_a_lower_bound(self, name: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=rf"Settings\.{name} must be at least \d+"):
            Settings(**only(name, -1))

    @pytest.mark.parametrize(
        ("name", "least"),
        [
            ("max_head_size", 128),
            ("max_body_size", 0),
            ("inbox_limit", 1),
            ("max_overlap", 1),
            ("worker_tasks", 1),
        ],
    )
    def test_and_it_is_this(self, name: str, least: int) -> None:
        assert getattr(Settings(**only(name, least)), name) == least
        with pytest.raises(ImproperlyConfigured, match=f"at least {least}"):
            Settings(**only(name, least - 1))

    @pytest.mark.parametrize("value", [0, -5, "many", True, 1.5, math.inf])
    def test_max_connections(self, value: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="max_connections"):
            Settings(max_connections=value)

    def test_what_may_be_left_out(self) -> None:
        made = Settings(max_connections=None, handler_timeout=None)
        assert (made.max_connections, made.handler_timeout) == (None, None)
        assert Settings(max_connections=1, handler_timeout=0.5).handler_timeout == 0.5

    @pytest.mark.parametrize("value", ["", "drop", None, True, "CLOSE"])
    def test_an_overflow_policy_is_one_of_three(self, value: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="close, drop_newest, drop_oldest"):
            Settings(overflow=value)

    @pytest.mark.parametrize("value", [0, 1, None, "yes", "False"])
    def test_a_switch_is_on_or_off(self, value: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"Settings\.compression is True or False, not"):
            Settings(compression=value)

    def test_an_unknown_name_is_a_type_error(self) -> None:
        with pytest.raises(TypeError, match="max_mesage_size"):
            Settings(max_mesage_size=1)  # type: ignore[call-arg]

    def test_fields_are_by_name_and_do_not_change(self) -> None:
        with pytest.raises(TypeError):
            Settings(1)  # type: ignore[call-arg]
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            Settings().max_overlap = 3  # type: ignore[misc]


class TestGlobs:
    @pytest.mark.parametrize(
        "value", [0, -1, 1.5, True, "5", None, {"a": 0}, {"*": 1.5}, {"a": 1, "b": None}]
    )
    def test_capacities_are_whole_and_at_least_one(self, value: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="channel_capacity"):
            Settings(channel_capacity=value)

    @pytest.mark.parametrize("value", [0, -1, 1.5, True, "5", None, {"a": 0}, {"*": 1.5}])
    def test_so_are_their_sizes(self, value: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="channel_bytes"):
            Settings(channel_bytes=value)

    @pytest.mark.parametrize("value", [-1, math.nan, True, "5", None, {"a": -1.0}, {"a": math.nan}])
    def test_expiries_are_not_negative(self, value: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="channel_expiry"):
            Settings(channel_expiry=value)

    def test_what_is_taken(self) -> None:
        made = Settings(channel_capacity={"jobs.*": 5, "*": 1}, channel_expiry={"jobs.*": 0, "x": math.inf})
        assert by_glob(made.channel_capacity, "jobs.mail", 100) == 5
        assert by_glob(made.channel_expiry, "x", 60.0) == math.inf

    def test_the_first_glob_that_matches_counts(self) -> None:
        setting = {"a.b": 1, "a.*": 2, "[xy]": 3}
        assert by_glob(setting, "a.b", 9) == 1
        assert by_glob(setting, "a.c", 9) == 2
        assert by_glob(setting, "x", 9) == 3
        assert by_glob(setting, "A.b", 9) == 9
        assert by_glob({}, "a", 9) == 9
        assert by_glob(7, "a", 9) == 7

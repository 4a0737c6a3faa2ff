"""The benchmark harness's pure parts: ratios, targets, tables, the plot, the client's frames."""

from __future__ import annotations

import json
import re
import sys
from xml.etree import ElementTree

import pytest
from benchmarks import plot, report, run, runner, scenarios, wire
from benchmarks.report import Outcome, Round
from benchmarks.scenarios import ITSELF, SCENARIOS, SUBJECT, Load, Scenario
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameDecoder, FrameProtocol, Opcode

ECHO = Scenario(
    "echo", "an echo", "messages", Load(), {"starlette": 1.2, "channels": 4.5}, others=("picows",)
)
MEMORY = Scenario("memory", "KiB a socket", "memory", Load(), {"starlette": 0.9})


def outcome(scenario: Scenario, **values: list[float]) -> Outcome:
    made = Outcome(scenario)
    for name, of_rounds in values.items():
        made.rounds += [Round(number, name, value, 1.0, 1.0) for number, value in enumerate(of_rounds)]
    return made


class TestRatios:
    def test_is_the_median_of_ratios_not_the_ratio_of_medians(self) -> None:
        drifting = outcome(ECHO, triochan=[100, 200, 400], starlette=[50, 200, 100])
        assert drifting.ratios("starlette") == [2.0, 1.0, 4.0]
        assert drifting.ratio("starlette") == 2.0

    def test_pairs_only_rounds_that_have_both(self) -> None:
        cut = outcome(ECHO, triochan=[100, 200, 400], starlette=[50, 50])
        assert cut.ratios("starlette") == [2.0, 4.0]
        assert cut.ratio("channels") is None

    def test_a_lower_bound_is_missed_from_below(self) -> None:
        assert outcome(ECHO, triochan=[119], starlette=[100]).missed() == ["starlette"]
        assert outcome(ECHO, triochan=[120], starlette=[100]).missed() == []

    def test_an_upper_bound_is_missed_from_above(self) -> None:
        assert outcome(MEMORY, triochan=[91], starlette=[100]).missed() == ["starlette"]
        assert outcome(MEMORY, triochan=[90], starlette=[100]).missed() == []

    def test_another_subject_has_no_targets(self) -> None:
        other = outcome(ECHO, websockets=[1], starlette=[100])
        other.subject = "websockets"
        assert other.ratio("starlette") == 0.01
        assert other.missed() == []

    def test_a_server_that_waits_is_told_from_a_busy_one(self) -> None:
        made = Outcome(ECHO, rounds=[Round(0, "picows", 1.0, 0.5, 0.5), Round(0, SUBJECT, 1.0, 0.5, 0.99)])
        assert made.unsaturated("picows")
        assert not made.unsaturated(SUBJECT)

    def test_per_processor_time(self) -> None:
        made = Outcome(
            ECHO, rounds=[Round(0, "starlette", 90.0, 0.9, 0.9), Round(0, SUBJECT, 100.0, 0.5, 1.0)]
        )
        assert made.processor_ratio("starlette") == 2.0
        assert made.processor_ratio("channels") is None
        assert outcome(MEMORY, triochan=[1], starlette=[2]).processor_ratio("starlette") is None


class TestTables:
    def test_shows_ratio_target_and_mark(self) -> None:
        made = outcome(ECHO, triochan=[110], starlette=[100], channels=[10], picows=[200])
        header, _, row = report.ratio_table([made]).splitlines()
        assert re.split(r"\s*\|\s*", row)[1:-1] == [
            *("an echo", "1.10 (≥ 1.2) ✗", "11.00 (≥ 4.5)", "0.55"),
        ]
        assert len(header) == len(row)

    def test_upper_bounds_and_what_was_not_measured(self) -> None:
        made = [
            outcome(MEMORY, triochan=[5], starlette=[10]),
            outcome(ECHO, triochan=[2], starlette=[1], channels=[1]),
        ]
        rows = report.ratio_table(made).splitlines()[2:]
        assert "0.50 (≤ 0.9)" in rows[0]
        assert rows[0].rstrip(" |").endswith("–")

    def test_a_failure_is_not_a_result(self) -> None:
        made = outcome(ECHO, triochan=[2], starlette=[1])
        made.errors["channels"] = "it ended"
        text = report.full_report([made])
        assert "failed" in report.ratio_table([made])
        assert "- an echo, channels: it ended" in text

    def test_says_what_is_missed_or_that_nothing_is(self) -> None:
        assert "1.00 against Starlette" in report.full_report([outcome(ECHO, triochan=[1], starlette=[1])])
        assert "Every target" in report.full_report([outcome(ECHO, triochan=[2], starlette=[1])])

    @pytest.mark.parametrize(
        ("value", "text"), [(0.973, "0.97"), (12.44, "12.4"), (314.2, "314"), (52310.4, "52,310")]
    )
    def test_numbers_have_the_digits_that_mean_something(self, value: float, text: str) -> None:
        assert report.number(value) == text

    def test_json_has_every_round(self) -> None:
        made = outcome(ECHO, triochan=[2, 3], starlette=[1, 1])
        raw = json.loads(json.dumps(made.as_json()))
        assert [one["value"] for one in raw["rounds"]] == [2, 3, 1, 1]
        assert raw["ratios"]["starlette"] == {
            "median": 2.5,
            "rounds": [2.0, 3.0],
            "processor_median": 2.5,
            "target": 1.2,
            "missed": False,
        }


class TestPlot:
    def test_is_well_formed_with_a_bar_for_each_and_a_dot_for_each_round(self) -> None:
        made = outcome(ECHO, triochan=[2, 3], starlette=[1, 1])
        root = ElementTree.fromstring(plot.draw([made, Outcome(MEMORY)]))
        name = "{http://www.w3.org/2000/svg}"
        assert len(root.findall(f"{name}rect")) == 1 + 2  # the background and two servers
        assert len(root.findall(f"{name}circle")) == 4

    def test_of_nothing(self) -> None:
        ElementTree.fromstring(plot.draw([]))


class TestScenarios:
    def test_keys_and_opponents_are_known(self) -> None:
        assert len({scenario.key for scenario in SCENARIOS}) == len(SCENARIOS)
        for scenario in SCENARIOS:
            assert {*scenario.targets, *scenario.others} <= {*scenarios.OPPONENTS}
            assert (scenario.itself is not None) == (ITSELF in scenario.opponents)
            assert (scenario.itself is not None) == (scenario.itself_titles is not None)

    @pytest.mark.parametrize("size", [128, 4096])
    @pytest.mark.parametrize("path", ["/echo", "/json"])
    def test_payloads_have_the_size(self, path: str, size: int) -> None:
        payload = Load(path, size=size).payload()
        assert len(payload.encode()) == size
        if path == "/json":
            assert json.dumps(json.loads(payload), separators=(",", ":")) == payload

    def test_every_contestant_begins_a_round(self) -> None:
        names = ["a", "b", "c"]
        assert [runner.rotated(names, by)[0] for by in range(4)] == ["a", "b", "c", "a"]
        assert all(sorted(runner.rotated(names, by)) == names for by in range(4))


class TestWire:
    @given(st.binary(max_size=70_000))
    def test_client_frames_are_what_wsproto_reads(self, payload: bytes) -> None:
        decoder = FrameDecoder(client=False)
        decoder.receive_bytes(wire.client_frame(2, payload))
        read = b""
        while (frame := decoder.process_buffer()) is not None:
            assert frame.opcode in (Opcode.BINARY, Opcode.CONTINUATION)
            assert isinstance(frame.payload, (bytes, bytearray))
            read += frame.payload
            if frame.frame_finished:
                break
        assert read == payload

    @given(st.binary(max_size=70_000), st.integers(min_value=0, max_value=70_010))
    def test_splits_what_wsproto_writes(self, payload: bytes, cut: int) -> None:
        data = bytes(FrameProtocol(client=False, extensions=[]).send_data(payload))
        assert wire.split_frame(data + b"\x81") == (2, payload, len(data))
        if cut < len(data):
            assert wire.split_frame(data[:cut]) is None

    @pytest.mark.parametrize("data", [b"\xc1\x00", b"\x01\x00", b"\x81\x80"])
    def test_refuses_compressed_fragmented_and_masked_frames(self, data: bytes) -> None:
        with pytest.raises(wire.ProtocolError):
            wire.split_frame(data)

    def test_accepts_the_handshake_of_the_standard(self) -> None:
        request, accept = wire.upgrade_request("/echo")
        assert request.startswith(b"GET /echo HTTP/1.1\r\n")
        wire.check_upgrade(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + accept, accept)
        with pytest.raises(wire.ProtocolError):
            wire.check_upgrade(b"HTTP/1.1 403 Forbidden\r\n", accept)
        with pytest.raises(wire.ProtocolError):
            wire.check_upgrade(b"HTTP/1.1 101 \r\nSec-WebSocket-Extensions: x\r\n" + accept, accept)


class TestArguments:
    def test_defaults_measure_everything(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["run.py"])
        arguments = run.parse_arguments()
        assert arguments.scenario is None
        assert arguments.rounds == 9

    @pytest.mark.parametrize(
        "wrong", [["--scenario", "ecko"], ["--rounds", "0"], ["--seconds", "99"], ["--peers", "triochan"]]
    )
    def test_mistakes_are_named(
        self, wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["run.py", *wrong])
        with pytest.raises(SystemExit) as stop:
            run.parse_arguments()
        assert stop.value.code == 2
        assert wrong[0] in capsys.readouterr().err

"""The benchmark harness: the compressed client, the HTTP client, the feed, the profile's and the new tables' sums."""

from __future__ import annotations

import json
import re
import ssl
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))  # as the harness itself does: it is no part of the package

from benchmarks import feed, load, plot, processes, profiling, report, runner, wire
from benchmarks.environment import ROOT, Base
from benchmarks.report import Outcome, Round
from benchmarks.scenarios import ACROSS, BEFORE, ITSELF, SCENARIOS, SUBJECT, Load, Measure, Scenario
from benchmarks.servers import common

STORM = Scenario("storm", "a storm", "storm", Load(), {"starlette": 0.8})
DEFLATE = Scenario(
    "deflate", "compressed", "compressed", Load(), {"websockets": 10}, wire_targets={"websockets": 1.1}
)


def server_frame(payload: bytes, opcode: int) -> bytes:
    assert len(payload) < 65536
    head = bytes([0x80 | opcode, len(payload)])
    if len(payload) > 125:
        head = bytes([0x80 | opcode, 126]) + len(payload).to_bytes(2, "big")
    return head + payload


class TestInflater:
    @given(st.lists(st.binary(max_size=3000), max_size=8), st.booleans(), st.integers(9, 15))
    def test_reads_what_zlib_writes(self, messages: list[bytes], alone: bool, bits: int) -> None:
        agreed = {"server_max_window_bits": str(bits)} | ({"server_no_context_takeover": ""} if alone else {})
        inflater = wire.Inflater(agreed)
        compressor = zlib.compressobj(wbits=-bits)
        for message in messages:
            if alone:
                compressor = zlib.compressobj(wbits=-bits)
            data = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
            assert inflater.message(data.removesuffix(b"\x00\x00\xff\xff")) == message

    def test_names_what_does_not_inflate(self) -> None:
        with pytest.raises(wire.ProtocolError, match="does not inflate"):
            wire.Inflater({}).message(b"\xff\xff\xff")

    @given(st.binary(max_size=5000), st.integers(9, 15))
    def test_the_clients_messages_inflate_alone(self, payload: bytes, bits: int) -> None:
        decompressor = zlib.decompressobj(-bits)
        assert decompressor.decompress(wire.deflated(payload, bits) + b"\x00\x00\xff\xff") == payload


class TestCompressedHandshake:
    def test_parameters_are_read(self) -> None:
        request, accept = wire.upgrade_request("/deflate", compressed=True)
        assert b"\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n" in request
        answer = b"HTTP/1.1 101 \r\nSec-WebSocket-Accept: " + accept
        offered = b'\r\nsec-websocket-extensions: permessage-deflate; server_no_context_takeover; a="12"'
        assert wire.agreed_compression(answer + offered, accept) == {
            "server_no_context_takeover": "",
            "a": "12",
        }

    def test_a_server_without_it_is_told_from_one_at_fault(self) -> None:
        _, accept = wire.upgrade_request("/deflate", compressed=True)
        with pytest.raises(wire.NotCompressed):
            wire.agreed_compression(b"HTTP/1.1 101 \r\nSec-WebSocket-Accept: " + accept, accept)
        with pytest.raises(wire.ProtocolError, match="403"):
            wire.agreed_compression(b"HTTP/1.1 403 Forbidden\r\n", accept)


class TestCompressedClient:
    def client(self, sampled: bool, *expected: bytes) -> wire.CompressedClient:
        client = wire.CompressedClient.__new__(wire.CompressedClient)  # without a socket
        client._tail = b""
        client._inflater = wire.Inflater({"server_no_context_takeover": ""})
        client.expected, client.received, client.sampled = list(expected), 0, sampled
        return client

    def test_counts_messages_in_pieces(self) -> None:
        frames = server_frame(wire.deflated(b"first"), wire.TEXT | wire.COMPRESSED) + server_frame(
            b"second", wire.TEXT
        )
        for cut in range(len(frames)):
            client = self.client(True, b"first", b"second")
            assert client.take(frames[:cut]) + client.take(frames[cut:]) == 2
            assert client.received == 2

    def test_a_wrong_message_is_noticed_by_those_who_read(self) -> None:
        frame = server_frame(wire.deflated(b"other"), wire.TEXT | wire.COMPRESSED)
        assert self.client(False, b"first").take(frame) == 1
        with pytest.raises(wire.ProtocolError, match="expected b'first', got b'other'"):
            self.client(True, b"first").take(frame)


class TestHttpClient:
    def client(self, body: bytes = b"") -> wire.HttpClient:
        client = wire.HttpClient.__new__(wire.HttpClient)  # without a socket
        client.body, client._buffer = body, b""
        return client

    def test_takes_an_answer_in_pieces(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        for cut in range(1, len(answer)):
            client = self.client(b"{}")
            assert not client.take(answer[:cut])
            assert client.take(answer[cut:])

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}x",
            b"HTTP/1.1 200 OK\r\n\r\n{}",
            b"",
        ],
    )
    def test_refuses_any_other(self, answer: bytes) -> None:
        with pytest.raises(wire.ProtocolError):
            self.client(b"{}").take(answer)


def test_the_feed_is_json_of_the_size_that_varies_and_is_the_same_each_time() -> None:
    messages = feed.messages(50, 2048)
    assert {len(message) for message in messages} == {2048}
    assert len(set(messages)) == 50
    assert all(json.loads(message)["vessels"] for message in messages)
    assert feed.messages(50, 2048) == messages


class TestReport:
    def test_a_time_has_a_ratio_of_work_that_is_better_when_it_is_more(self) -> None:
        def one(name: str, ms: float, ran: float) -> Round:
            return Round(0, name, ms, ran, ran, {"count": 100, "seconds": ms / 1000})

        made = Outcome(STORM, rounds=[one(SUBJECT, 500, 1.0), one("starlette", 1000, 0.25)])
        assert made.ratio("starlette") == 0.5
        assert made.processor_ratio("starlette") == 0.5  # 100 in 0.5 s of processor time against 0.25 s
        assert made.missed() == []

    def test_bytes_have_a_target_of_their_own(self) -> None:
        def one(name: str, value: float, size: float) -> Round:
            return Round(0, name, value, 1.0, 1.0, {"wire_bytes": size})

        made = Outcome(DEFLATE, rounds=[one(SUBJECT, 110, 600), one("websockets", 10, 500)])
        assert made.missed() == []
        assert made.missed_bytes() == ["websockets"]
        assert "bytes on the wire: 1.20 against websockets" in report.full_report([made])
        made.rounds[0] = one(SUBJECT, 110, 549)
        assert made.missed_bytes() == []
        assert "Every target" in report.full_report([made])

    def test_the_kernels_share_is_of_all_rounds(self) -> None:
        figures = [{"server_user": 0.1, "server_system": 0.3}, {"server_user": 0.3, "server_system": 0.1}]
        made = Outcome(
            STORM, rounds=[Round(at, SUBJECT, 1.0, 1.0, 1.0, one) for at, one in enumerate(figures)]
        )
        assert made.kernel_share(SUBJECT) == pytest.approx(0.5)
        assert made.kernel_share("starlette") is None

    def test_what_is_left_out_is_no_failure(self) -> None:
        made = Outcome(STORM, rounds=[Round(0, SUBJECT, 1.0, None, None)])
        made.left_out[BEFORE] = "no compression"
        assert "left out" in report.ratio_table([made])
        assert "Left out:\n- a storm, before: no compression" in report.full_report([made])
        assert "Failed" not in report.full_report([made])


class TestContestants:
    def settings(self, base: Base | None) -> runner.Settings:
        return runner.Settings(
            *(Path("python"), SUBJECT, ("picows",), 1, 1.0, 0, 1, Path("pem"), Path("pem"), print), base=base
        )

    def test_the_commit_before_runs_from_its_own_sources_in_every_scenario(self) -> None:
        base = Base("HEAD~1 (abc)", Path("/elsewhere"))
        for scenario in SCENARIOS:
            chosen = {one.name: one for one in runner.contestants(scenario, self.settings(base))}
            assert chosen[BEFORE].sources == base.sources
            assert chosen[BEFORE].load == scenario.load
            assert {one.sources for name, one in chosen.items() if name != BEFORE} == {ROOT}
            assert chosen.keys() <= {SUBJECT, BEFORE, ITSELF, "picows"}

    def test_without_a_base_there_is_none(self) -> None:
        assert all(
            BEFORE not in {one.name for one in runner.contestants(scenario, self.settings(None))}
            for scenario in SCENARIOS
        )


class TestProfile:
    def test_objects_by_what_they_are(self) -> None:
        text = """
    61.00%  [kernel.kallsyms]
    20.00%  python3.11
     9.00%  libz.so.1.2.13
     5.00%  libcrypto.so.3
     3.00%  libc.so.6
     2.00%  speedups.cpython-311-x86_64-linux-gnu.so
"""
        assert profiling.objects(text) == pytest.approx(
            {
                "the kernel": 0.61,
                "the interpreter": 0.2,
                "zlib": 0.09,
                "OpenSSL": 0.05,
                "the C library": 0.03,
                "speedups": 0.02,
            }
        )

    def test_modules_by_the_innermost_frame_of_the_main_thread(self) -> None:
        stacks = [
            "thread (7): MainThread;main (tests/x.py:3);send (triochan/wire/outbox.py:104) 6",
            "thread (7): MainThread;run (trio/_core/_run.py:2866) 3",
            "thread (7): MainThread;loads (json/__init__.py:346) 1",
            "thread (8): Thread-1;read (benchmarks/servers/common.py:59) 90",
        ]
        modules, lines = profiling.modules(stacks)
        assert modules == {"triochan.wire.outbox": 0.6, "trio": 0.3, "json": 0.1}
        assert next(iter(lines)) == "triochan.wire.outbox send:104"


class TestFailures:
    @pytest.mark.parametrize(
        ("name", "port", "missing", "left_out"),
        [
            (BEFORE, 0, False, True),  # it did not even start
            (BEFORE, 80, True, True),  # no compression
            (BEFORE, 80, False, False),
            ("picows", 0, False, False),
            (SUBJECT, 80, True, False),
        ],
    )
    def test_only_the_commit_before_may_lack_something(
        self, name: str, port: int, missing: bool, left_out: bool
    ) -> None:
        server = processes.Server.__new__(processes.Server)  # without a process
        server.port = port
        settings = runner.Settings(
            *(Path("python"), SUBJECT, ("picows",), 1, 1.0, 0, 1, Path("pem"), Path("pem"), lambda text: None)
        )
        made = Outcome(STORM)
        conductor = runner._Conductor(STORM, settings, {}, made)
        conductor.failed(name, processes.ChildFailed(server, "it lacks something", missing), [server])
        assert (made.left_out if left_out else made.errors) == {name: "it lacks something"}
        assert made.is_out(name)


def settings(*peers: str, subject: str = SUBJECT) -> runner.Settings:
    return runner.Settings(
        *(Path("python"), subject, peers, 1, 1.0, 0, 1, Path("pem"), Path("pem"), lambda text: None)
    )


class TestAcrossProcesses:
    SPREAD = Scenario("spread", "spread", "deliveries", Load("/group", processes=3), {"websockets": 1.2})
    JOBS = Scenario("jobs", "jobs", "jobs", Load("/job", processes=3), {"channels": 3})

    def test_servers_are_those_that_have_an_engine_between_them(self) -> None:
        chosen = runner.contestants(self.SPREAD, settings("websockets", "starlette"))
        assert {one.name: one.module for one in chosen} == {
            name: ACROSS[name] for name in (SUBJECT, "websockets")
        }
        assert runner.contestants(self.SPREAD, settings("websockets", subject="starlette")) == []
        for scenario in SCENARIOS:
            if scenario.across:
                assert {*scenario.opponents} <= {*ACROSS, BEFORE, ITSELF}

    @pytest.mark.parametrize(
        ("measure", "ports", "spread", "bystander"),
        [
            ("deliveries", 3, [2, 3], 0),
            ("bystander", 4, [2, 3], 4),
            ("jobs", 3, [], 0),
            ("messages", 1, [], 0),
        ],
    )
    def test_who_of_several_processes_gets_what(
        self, measure: Measure, ports: int, spread: list[int], bystander: int
    ) -> None:
        asked: dict[str, object] = {}

        class Generator(processes.LoadGenerator):
            def __init__(self) -> None: ...

            def do(self, command: str, timeout: float = 60.0, **arguments: object) -> dict[str, object]:
                asked.update(arguments)
                return {}

        servers = []
        for port in range(1, ports + 1):
            server = processes.Server.__new__(processes.Server)  # without a process
            server.port = port
            servers.append(server)
        scenario = Scenario("x", "x", measure, Load(processes=ports))
        conductor = runner._Conductor(scenario, settings(), {SUBJECT: Generator()}, Outcome(scenario))
        conductor.open(runner.Contestant(SUBJECT, "module", scenario.load), servers)
        assert (asked["port"], asked["spread"], asked["bystander"]) == (1, spread, bystander)
        assert bool(asked["reports"]) == (measure == "jobs")

    def test_workers_report_in_pieces_and_at_once(self, tmp_path: Path) -> None:
        reports = load.Reports(str(tmp_path / "done"))
        try:
            workers = [common.Done(str(tmp_path / "done")) for _ in range(2)]
            workers[0].report("0000001 and the job itself")
            workers[1].report("0000002")
            workers[0]._sock.sendall(b"00000030000")
            found: list[bytes] = []
            while len(found) < 3:
                found += reports.read()
            workers[0]._sock.sendall(b"004")
            assert {*found, *reports.read()} == {b"0000001", b"0000002", b"0000003", b"0000004"}
            workers[1]._sock.close()
            with pytest.raises(wire.ProtocolError, match="a worker has ended"):
                reports.read()
            workers[0]._sock.close()
        finally:
            reports.close()

    def test_who_awaits_no_reply_answers_pings(self) -> None:
        client = wire.Client.__new__(wire.Client)  # without a socket
        client._tail = client.reply = b""
        sent: list[bytes] = []

        def send(data: bytes) -> int:
            sent.append(data)
            return len(data)

        client.send_now = send  # type: ignore[assignment]
        assert client.take(server_frame(b"?", wire.PING)) == 0
        assert sent == [wire.client_frame(wire.PONG, b"?")]

    def test_a_server_that_is_gone_ends_the_round(self) -> None:
        client = wire.Client.__new__(wire.Client)  # without a socket
        client._tail = b""
        client.reply = b"reply"
        target = load.Target(0, "/group", "")
        with pytest.raises(wire.ProtocolError, match="closed"):
            target.take(client, b"")
        target.tls = ssl.create_default_context()
        assert target.take(client, b"") == 0
        assert target.take(client, b"replyreply") == 2
        target.close()

    def test_the_engine_is_told_apart(self) -> None:
        figures = {"engine_ran": 0.002, "count": 1000, "server_user": 1.0, "server_system": 1.0}
        made = Outcome(
            self.SPREAD,
            rounds=[Round(0, name, 1000.0, 0.5, 0.9, figures) for name in (SUBJECT, "websockets")],
        )
        assert re.split(r"\s*\|\s*", report.engine_table([made]).splitlines()[2])[1:-1] == [
            *("spread", "delivery", "2.00", "2.00"),
        ]
        text = report.full_report([made])
        assert report.ACROSS_NOTE in text
        assert "websockets + redis-py" in plot.draw([made])

    def test_who_hears_what_is_not_for_it_is_told(self) -> None:
        bystander = Scenario("idle", "idle", "bystander", Load(processes=4), {"websockets": 0.1})
        made = Outcome(
            bystander,
            rounds=[
                Round(0, name, 1.0, None, None, {"subscribers": heard})
                for name, heard in ((SUBJECT, 2), ("websockets", 4))
            ],
        )
        assert (
            "Subscribers of a group with members in 2 of 4 processes: triochan, RedisLayer 2, "
            "websockets + redis-py 4." in report.full_report([made])
        )

    def test_what_is_done_twice_is_told(self) -> None:
        made = Outcome(
            self.JOBS,
            rounds=[
                Round(0, name, 1.0, 1.0, 1.0, {"twice": twice, "count": 1000})
                for name, twice in ((SUBJECT, 0), ("channels", 300))
            ],
        )
        assert "(jobs): Channels 4 + channels_redis 300 of 1,000." in report.full_report([made])

"""Conducts a scenario: all its servers up, warmed, then loaded in turn, round after round."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import profiling
from benchmarks.environment import ROOT, Base
from benchmarks.processes import NOTHING_SPENT, ChildFailed, Engine, LoadGenerator, Server
from benchmarks.report import Outcome, Round
from benchmarks.scenarios import BEFORE, ITSELF, TITLES, Load, Scenario

WARM_UP = 0.5
MEMORY_ROUNDS = 3
"""Enough where a round starts fresh processes, whose sizes hardly differ."""
SETTLE = 0.5
"""Seconds after many handshakes, for tasks and collectors to finish with them."""


@dataclass(frozen=True)
class Settings:
    python: Path
    subject: str
    peers: tuple[str, ...]
    rounds: int
    seconds: float
    server_core: int
    load_core: int
    certificate: Path
    authority: Path
    say: Callable[[str], None]
    base: Base | None = None
    """Where the triochan of an earlier commit is, to be measured as one more contestant."""
    profile: bool = False
    """Add a round to each scenario that says where the subject's time goes."""


@dataclass
class Contestant:
    """A server under one load. `name` is its column in the table."""

    name: str
    module: str
    load: Load
    sources: Path = ROOT
    """The checkout whose triochan it imports, if it does."""


def contestants(scenario: Scenario, settings: Settings) -> list[Contestant]:
    """The subject first, then its opponents in this scenario."""
    if settings.subject not in scenario.servers:
        return []
    module = scenario.servers[settings.subject]
    chosen = [Contestant(settings.subject, module, scenario.load)]
    for name in scenario.opponents:
        if name == ITSELF:
            assert scenario.itself is not None
            chosen.append(Contestant(ITSELF, module, scenario.itself))
        elif name == BEFORE:
            if settings.base is not None:
                chosen.append(Contestant(BEFORE, module, scenario.load, settings.base.sources))
        elif name in settings.peers and name != settings.subject:
            chosen.append(Contestant(name, scenario.servers[name], scenario.load))
    return chosen


def rotated(names: list[str], by: int) -> list[str]:
    """Each round begins with another contestant, so that none always follows the same one."""
    by %= len(names) or 1
    return names[by:] + names[:by]


def run(scenario: Scenario, settings: Settings) -> Outcome:
    outcome = Outcome(scenario, settings.subject)
    if settings.base is not None:
        outcome.notes[BEFORE] = settings.base.revision
    chosen = contestants(scenario, settings)
    if len(chosen) < 2:
        settings.say("    left out: none of the chosen servers takes part")
        return outcome
    with ExitStack() as stack:

        def generator() -> LoadGenerator:
            return stack.enter_context(LoadGenerator(settings.python, settings.load_core))

        shared = generator()
        # A crowd takes about as many files as a process may have open: each has a load generator of its own.
        crowded = {one.name: generator() for one in chosen if one.load.crowd and scenario.measure != "memory"}
        generators = {one.name: crowded.get(one.name, shared) for one in chosen}
        conduct = _Memory if scenario.measure == "memory" else _InTurn
        conductor = conduct(scenario, settings, generators, outcome)
        if scenario.across:
            try:
                conductor.have_engine(stack)
            except ChildFailed as error:
                outcome.errors[settings.subject] = str(error)
                settings.say(f"    failed: {error}")
                return outcome
        for measured in conductor.rounds(chosen):
            settings.say("    " + measured)
    return outcome


class _Conductor:
    def __init__(
        self,
        scenario: Scenario,
        settings: Settings,
        generators: dict[str, LoadGenerator],
        outcome: Outcome,
    ) -> None:
        self.scenario = scenario
        self.settings = settings
        self.generators = generators
        self.outcome = outcome

        self.engine: Engine | None = None
        self.folder = ""
        """For the sockets of those who report jobs."""

    def have_engine(self, stack: ExitStack) -> None:
        self.folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-"))
        # Beside the load generator: in earnest it is on another machine, as the clients are.
        self.engine = stack.enter_context(Engine(self.settings.python, self.settings.load_core))
        self.engine.started()

    def launch(self, contestant: Contestant, stack: ExitStack) -> list[Server]:
        """All processes of a contestant, the one that the load generator sends to first."""
        settings, load = self.settings, contestant.load
        options = [
            *(["--compression"] if self.scenario.measure == "compressed" else []),
            *(["--pings"] if load.pings else []),
            *(["--durable"] if load.durable else []),
        ]
        if self.engine is not None:
            options += ["--engine", self.engine.url, "--prefix", self.prefix(contestant)]
        servers = []
        for number in range(load.processes):
            worker = (
                ["--done", self.reports(contestant)] if number and self.scenario.measure == "jobs" else []
            )
            server = Server(
                settings.python,
                contestant.module,
                f"{self.scenario.key}-{contestant.name}" + (f"-{number + 1}" if load.processes > 1 else ""),
                settings.server_core,
                settings.certificate if load.tls else None,
                [*options, *worker],
                contestant.sources,
            )
            servers.append(stack.enter_context(server))
        return servers

    def prefix(self, contestant: Contestant) -> str:
        """Of what a contestant has in the engine."""
        return f"of-{contestant.name}"

    def reports(self, contestant: Contestant) -> str:
        return f"{self.folder}/{contestant.name}"

    def open(self, contestant: Contestant, servers: Sequence[Server]) -> dict[str, Any]:
        load = contestant.load
        measure = self.scenario.measure
        others = [server.port for server in servers[1:]]
        bystander = others.pop() if measure == "bystander" else 0
        if measure == "jobs":
            others = []
        return self.generators[contestant.name].do(
            "open",
            target=contestant.name,
            port=servers[0].port,
            path=load.path,
            payload=load.payload(),
            # Connectors bring their own sockets; one is opened to learn what the reply looks like.
            members={"connects": 1, "requests": 0}.get(measure, load.members),
            group=measure in ("deliveries", "compressed", "storm", "paced", "bystander"),
            certificate=str(self.settings.authority) if load.tls else None,
            compressed=measure == "compressed",
            spread=others,
            bystander=bystander,
            reports=self.reports(contestant) if measure == "jobs" else "",
        )

    def failed(self, name: str, error: ChildFailed, servers: Sequence[Server]) -> None:
        text = str(error)
        # An earlier triochan need not have all that the consumers ask for: then it does not even listen.
        if name == BEFORE and (error.missing or not servers[0].port):
            self.outcome.left_out[name] = text
            self.settings.say(f"    {TITLES[name]} is left out: {text}")
            return
        if error.child not in servers:  # the load generator complains, the reason is in the server's log
            text += "".join(server.last_words() for server in servers)
        self.outcome.errors[name] = text
        self.settings.say(f"    {name} failed: {text}")

    def summary(self, number: int, of: int) -> str:
        values = [
            f"{measured.contestant} {measured.value:,.{0 if measured.value >= 100 else 1}f}"
            for measured in self.outcome.rounds
            if measured.number == number
        ]
        return f"round {number + 1}/{of}: " + " · ".join(values) + f" {self.scenario.unit}"


class _InTurn(_Conductor):
    """All servers stay up with their sockets open, and are loaded one after the other."""

    def rounds(self, chosen: list[Contestant]) -> Iterator[str]:
        settings = self.settings
        self.subscribers: dict[str, int] = {}
        with ExitStack() as stack:
            servers = {one.name: self.launch(one, stack) for one in chosen}
            loads = {one.name: one.load for one in chosen}
            for one in chosen:
                try:
                    for server in servers[one.name]:
                        server.started()
                    details = self.open(one, servers[one.name])
                    if details["tls"]:
                        self.outcome.notes[one.name] = f"cipher {details['tls'][0]}, {details['tls'][1]}"
                    if one.load.crowd:
                        self.generators[one.name].do(
                            "crowd", target=one.name, count=one.load.crowd, timeout=120
                        )
                    self.measure(one.name, one.load, WARM_UP)
                    if self.scenario.measure == "bystander":
                        assert self.engine is not None
                        self.subscribers[one.name] = self.engine.subscribers(self.prefix(one))
                except ChildFailed as error:
                    self.failed(one.name, error, servers[one.name])
                    if one.name == settings.subject:
                        return  # nothing to compare the others with
            time.sleep(SETTLE)
            names = [one.name for one in chosen]
            for number in range(settings.rounds):
                for name in rotated(names, number):
                    if self.outcome.is_out(name):
                        continue
                    try:
                        self.round(number, name, servers[name], loads[name])
                    except ChildFailed as error:
                        self.failed(name, error, servers[name])
                yield self.summary(number, settings.rounds)
            if settings.profile and not self.outcome.is_out(settings.subject):
                # Of several, one that does what the sender asks for.
                self.profile(servers[settings.subject][:2][-1], loads[settings.subject])
                yield "profiled"

    def profile(self, server: Server, load: Load) -> None:
        """Where the subject's time goes, in rounds whose figures do not count."""

        def work() -> None:
            self.measure(self.settings.subject, load, self.settings.seconds)

        try:
            self.outcome.profile = profiling.profile(self.settings.python, server.process.pid, work)
        except (ChildFailed, profiling.NoProfiler) as error:
            self.settings.say(f"    no profile: {error}")
            self.outcome.notes["profile"] = str(error)

    def measure(self, name: str, load: Load, seconds: float) -> dict[str, Any]:
        arguments: dict[str, dict[str, float]] = {
            "connects": {"seconds": seconds, "at_once": load.members},
            "requests": {"seconds": seconds, "at_once": load.members},
            "latency": {"seconds": seconds},
            "paced": {"seconds": seconds},
            "jobs": {"seconds": seconds},
            "storm": {},  # it takes as long as it takes
        }
        otherwise = {"seconds": seconds, "in_flight": load.in_flight}
        what = self.scenario.measure
        return self.generators[name].do("measure", target=name, what=what, **arguments.get(what, otherwise))

    def round(self, number: int, name: str, servers: Sequence[Server], load: Load) -> None:
        before = [server.spent() for server in servers]
        engine_before = self.engine.spent() if self.engine else NOTHING_SPENT
        figures = self.measure(name, load, self.settings.seconds)
        engine = (self.engine.spent() if self.engine else NOTHING_SPENT).since(engine_before)
        each = [server.spent().since(earlier) for server, earlier in zip(servers, before, strict=True)]
        if load.crowd:
            self.generators[name].do("alive", target=name)
        if self.engine:
            figures |= {"engine_ran": engine.ran, "each_ran": [one.ran for one in each]}
        if self.scenario.measure == "bystander":
            messages = figures["count"] / load.members
            figures["subscribers"] = self.subscribers[name]
            self.outcome.rounds.append(
                Round(number, name, each[-1].ran * 1e6 / messages, None, None, figures)
            )
            return
        spent = sum(each, NOTHING_SPENT)
        server_ran = spent.ran / figures["seconds"]
        # Processes of one server also wait for each other.
        server_busy = min(server_ran + spent.ready / figures["seconds"], 1.0 if len(each) > 1 else math.inf)
        value = figures.get(
            {"latency": "median_us", "storm": "ms", "paced": "median_ms"}.get(self.scenario.measure, ""),
            figures["count"] / figures["seconds"],
        )
        figures |= {"server_user": spent.user, "server_system": spent.system}
        self.outcome.rounds.append(Round(number, name, value, server_ran, server_busy, figures))


class _Memory(_Conductor):
    """A fresh process for every figure: what a process has freed before would hide what it takes."""

    def rounds(self, chosen: list[Contestant]) -> Iterator[str]:
        count = min(self.settings.rounds, MEMORY_ROUNDS)
        by_name = {one.name: one for one in chosen}
        for number in range(count):
            for name in rotated(list(by_name), number):
                if self.outcome.is_out(name):
                    continue
                with ExitStack() as stack:
                    servers = self.launch(by_name[name], stack)
                    try:
                        servers[0].started()
                        self.round(number, by_name[name], servers)
                    except ChildFailed as error:
                        self.failed(name, error, servers)
                        if name == self.settings.subject:
                            return
            yield self.summary(number, count)

    def round(self, number: int, one: Contestant, servers: Sequence[Server]) -> None:
        server = servers[0]
        self.open(one, servers)  # a first connection pays for what is loaded late
        time.sleep(SETTLE)
        before = server.resident_kib()
        self.generators[one.name].do("crowd", target=one.name, count=one.load.crowd)
        time.sleep(SETTLE)
        after = server.resident_kib()
        self.generators[one.name].do("alive", target=one.name)
        figures = {"before_kib": before, "after_kib": after, **asdict(one.load)}
        self.outcome.rounds.append(
            Round(number, one.name, (after - before) / one.load.crowd, None, None, figures)
        )

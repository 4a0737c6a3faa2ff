"""From measured rounds to ratios, tables and JSON. Nothing here measures or starts anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.profiling import Profile
from benchmarks.scenarios import BEFORE, ITSELF, OPPONENTS, SUBJECT, TITLES, WORK, Scenario

MISSED = "✗"
UNSATURATED = "°"
ACROSS_NOTE = """\
“Across processes”: each server is several processes on one core, with a valkey-server between them that all
servers share, beside the load generator. There Channels 4 is with channels_redis (pub/sub for groups, its queues and
Channels' worker for jobs), websockets and picows are with redis-py and hiredis, by hand. Their work per second of
processor time is that of all their processes together, without the engine's."""
SATURATED_FROM = 0.9
"""Share of a round that a server must be busy for its rate to be its own limit."""


@dataclass(frozen=True)
class Round:
    number: int
    contestant: str
    value: float
    """In the scenario's unit."""
    server_ran: float | None
    """Share of the time that the server had its core; None where it was not rushed."""
    server_busy: float | None
    """The same, and what it waited for its core while somebody else on the machine had it."""
    figures: dict[str, Any] = field(default_factory=dict)
    """What the load generator said."""


@dataclass
class Outcome:
    """A scenario and its rounds so far."""

    scenario: Scenario
    subject: str = SUBJECT
    rounds: list[Round] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    """Contestant → why it could not be measured."""
    notes: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Contestant → what it lacks for this scenario."""
    profile: Profile | None = None
    """Where the subject's processor time goes, if that was asked for."""

    def is_out(self, contestant: str) -> bool:
        return contestant in self.errors or contestant in self.left_out

    def values(self, contestant: str) -> dict[int, float]:
        return {one.number: one.value for one in self.rounds if one.contestant == contestant}

    def ratios(self, opponent: str) -> list[float]:
        """Subject / opponent for each round that has both: drift of the machine falls out of it."""
        ours, theirs = self.values(self.subject), self.values(opponent)
        # A peer that takes less than can be measured has no ratio.
        return [
            ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys()) if theirs[number]
        ]

    def work(self, contestant: str) -> dict[int, float]:
        """For each round, what a second of the server's processor time brought: messages, deliveries, …"""
        found = {}
        for one in self.rounds:
            if one.contestant == contestant and one.server_ran:
                rate = one.value
                if self.scenario.lower_is_better:  # the value is a time; what was done in it has been counted
                    if "count" not in one.figures:
                        continue
                    rate = one.figures["count"] / one.figures["seconds"]
                found[one.number] = rate / one.server_ran
        return found

    def processor_ratio(self, opponent: str) -> float | None:
        """The median ratio of `work`, more is better; None where the servers were not rushed."""
        return self._paired(self.work, opponent)

    def wire_ratio(self, opponent: str) -> float | None:
        """The median ratio of the bytes that a delivery takes on the wire, less is better."""
        return self._paired(lambda name: self.figures(name, "wire_bytes"), opponent)

    def _paired(self, of: Callable[[str], dict[int, float]], opponent: str) -> float | None:
        ours, theirs = of(self.subject), of(opponent)
        ratios = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys()]
        return median(ratios) if ratios else None

    def figures(self, contestant: str, name: str) -> dict[int, float]:
        """One of the load generator's figures, for each round that has it."""
        return {
            one.number: one.figures[name]
            for one in self.rounds
            if one.contestant == contestant and name in one.figures
        }

    def kernel_share(self, contestant: str) -> float | None:
        """Of all processor time of a server in the rounds, the part that it was in the kernel for."""
        user = sum(self.figures(contestant, "server_user").values())
        system = sum(self.figures(contestant, "server_system").values())
        return system / (user + system) if user + system else None

    def ratio(self, opponent: str) -> float | None:
        ratios = self.ratios(opponent)
        return median(ratios) if ratios else None

    @property
    def opponents(self) -> tuple[str, ...]:
        return tuple(name for name in self.scenario.opponents if name != self.subject)

    def target(self, opponent: str) -> float | None:
        """Targets are triochan's: with another subject there are none."""
        return self.scenario.targets.get(opponent) if self.subject == SUBJECT else None

    def missed(self) -> list[str]:
        return [
            opponent
            for opponent in self.scenario.targets
            if self.target(opponent) is not None
            and (ratio := self.ratio(opponent)) is not None
            and not self.scenario.holds(opponent, ratio)
        ]

    def missed_bytes(self) -> list[str]:
        return [
            opponent
            for opponent, target in self.scenario.wire_targets.items()
            if self.subject == SUBJECT
            and (ratio := self.wire_ratio(opponent)) is not None
            and round(ratio, 2) > target
        ]

    def unsaturated(self, contestant: str) -> bool:
        """Whether a rate was limited by something other than the server's core."""
        if self.scenario.lower_is_better:
            return False
        shares = [
            one.server_busy
            for one in self.rounds
            if one.contestant == contestant and one.server_busy is not None
        ]
        return bool(shares) and median(shares) < SATURATED_FROM

    def as_json(self) -> dict[str, Any]:
        scenario = self.scenario
        return {
            "key": scenario.key,
            "title": scenario.title,
            "unit": scenario.unit,
            "lower_is_better": scenario.lower_is_better,
            "subject": self.subject,
            "ratios": {
                opponent: {
                    "median": ratio,
                    "rounds": self.ratios(opponent),
                    "processor_median": self.processor_ratio(opponent),
                    **({} if (bytes := self.wire_ratio(opponent)) is None else {"wire_median": bytes}),
                    "target": self.target(opponent),
                    "missed": opponent in self.missed(),
                }
                for opponent in self.opponents
                if (ratio := self.ratio(opponent)) is not None
            },
            "rounds": [
                {
                    "round": one.number,
                    "contestant": one.contestant,
                    "value": one.value,
                    "server_ran": one.server_ran,
                    "server_busy": one.server_busy,
                    **one.figures,
                }
                for one in self.rounds
            ],
            "errors": self.errors,
            "notes": self.notes,
            "left_out": self.left_out,
            "profile": self.profile.as_json() if self.profile else None,
        }


def number(value: float) -> str:
    """Three digits or more where they mean something: 0.97, 12.4, 52,310."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio_table(outcomes: Sequence[Outcome]) -> str:
    """One row a scenario, one column an opponent: the median ratio, its target, and ✗ where it is missed."""
    return _table(outcomes, _ratio_cell)


def _ratio_cell(outcome: Outcome, opponent: str) -> str:
    if opponent in outcome.left_out:
        return "left out"
    if opponent in outcome.errors or (outcome.subject in outcome.errors and opponent in outcome.opponents):
        return "failed"
    ratio = outcome.ratio(opponent)
    if ratio is None:
        return "–"
    text = f"{ratio:.2f}"
    target = outcome.target(opponent)
    if target is not None:
        text += f" ({'≤' if outcome.scenario.lower_is_better else '≥'} {_target(target)})"
    return text + (f" {MISSED}" if opponent in outcome.missed() else "")


def _target(target: float) -> str:
    """With one digit or, where it has them, two."""
    return f"{target:.1f}" if round(target, 1) == target else f"{target:.2f}"


def processor_table(outcomes: Sequence[Outcome]) -> str:
    """The rates once more, each divided by the processor time that its server used for it."""
    return _table(outcomes, _processor_cell)


def _processor_cell(outcome: Outcome, opponent: str) -> str:
    ratio = outcome.processor_ratio(opponent)
    if ratio is None:
        return "–"
    # A target for a rate is one for this as well; what is a time has no such thing here.
    target = None if outcome.scenario.lower_is_better else outcome.target(opponent)
    return f"{ratio:.2f}" + (f" {MISSED}" if target is not None and round(ratio, 2) < target else "")


def value_table(outcomes: Sequence[Outcome]) -> str:
    """One row a scenario, one column a server: the median figure itself, good for its order of magnitude."""

    def cell(outcome: Outcome, name: str) -> str:
        values = outcome.values(name).values()
        mark = UNSATURATED if outcome.unsaturated(name) else ""
        return number(median(values)) + mark if values else "–"

    return _table(outcomes, cell, ("unit", lambda outcome: outcome.scenario.unit), with_subject=True)


def time_table(outcomes: Sequence[Outcome]) -> str:
    """The servers' processor time for a unit of work in µs, and how much of it the kernel took."""

    def cell(outcome: Outcome, name: str) -> str:
        work = outcome.work(name).values()
        if not work:
            return "–"
        share = outcome.kernel_share(name)
        return number(1e6 / median(work)) + (f" ({share:.0%})" if share is not None else "")

    unit = ("µs a", lambda outcome: WORK.get(outcome.scenario.measure, ""))
    return _table(outcomes, cell, unit, with_subject=True)


def load_table(outcomes: Sequence[Outcome]) -> str:
    """How much of a round the load generator was busy: near 1 it may be what limits a server's rate."""

    def cell(outcome: Outcome, name: str) -> str:
        shares = outcome.figures(name, "load_busy").values()
        return f"{median(shares):.2f}" if shares else "–"

    return _table(outcomes, cell, with_subject=True)


def engine_table(outcomes: Sequence[Outcome]) -> str:
    """The engine's processor time for a unit of work in µs."""

    def cell(outcome: Outcome, name: str) -> str:
        taken = [
            one.figures["engine_ran"] / one.figures["count"]
            for one in outcome.rounds
            if one.contestant == name and "engine_ran" in one.figures
        ]
        return number(1e6 * median(taken)) if taken and outcome.scenario.measure in WORK else "–"

    unit = ("µs a", lambda outcome: WORK.get(outcome.scenario.measure, ""))
    return _table(outcomes, cell, unit, with_subject=True)


def bytes_table(outcomes: Sequence[Outcome]) -> str:
    """What a delivery takes on the wire, and its ratio to the subject's where a target is set for it."""

    def cell(outcome: Outcome, name: str) -> str:
        sizes = outcome.figures(name, "wire_bytes").values()
        if not sizes:
            return "–"
        text = number(median(sizes))
        ratio = outcome.wire_ratio(name)
        if name == outcome.subject or ratio is None:
            return text
        target = outcome.scenario.wire_targets.get(name) if outcome.subject == SUBJECT else None
        text += f": {ratio:.2f}" + (f" (≤ {_target(target)})" if target is not None else "")
        return text + (f" {MISSED}" if name in outcome.missed_bytes() else "")

    return _table(outcomes, cell, with_subject=True)


def _table(
    outcomes: Sequence[Outcome],
    cell: Callable[[Outcome, str], str],
    extra: tuple[str, Callable[[Outcome], str]] | None = None,
    with_subject: bool = False,
) -> str:
    """A row for each scenario that has anything to show, with `extra` as a second column."""
    columns = _columns(outcomes)
    if with_subject:
        columns = [*sorted({outcome.subject for outcome in outcomes}), *columns]
    rows = [["scenario", *([extra[0]] if extra else []), *(TITLES[name] for name in columns)]]
    for outcome in outcomes:
        cells = [cell(outcome, name) for name in columns]
        if any(text != "–" for text in cells):
            rows.append([outcome.scenario.title, *([extra[1](outcome)] if extra else []), *cells])
    return _markdown(rows)


def _columns(outcomes: Sequence[Outcome]) -> list[str]:
    """The opponents of all outcomes but those that were not asked for: neither measured nor failed."""
    seen = {one.contestant for outcome in outcomes for one in outcome.rounds}
    seen |= {name for outcome in outcomes for name in (*outcome.errors, *outcome.left_out)}
    seen -= {outcome.subject for outcome in outcomes}
    return [name for name in OPPONENTS if name in seen]


def _markdown(rows: list[list[str]]) -> str:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def full_report(outcomes: Sequence[Outcome]) -> str:
    """All tables and what is to be said about them."""
    measured = [outcome for outcome in outcomes if outcome.rounds or outcome.errors]
    if not measured:
        return "Nothing was measured."
    subject = TITLES[measured[0].subject]
    parts = [f"Ratios {subject} / peer, medians over the rounds:", "", ratio_table(measured), ""]
    if BEFORE in measured[0].notes:
        parts += [f"{TITLES[BEFORE].capitalize()} is {measured[0].notes[BEFORE]}.", ""]
    if any(outcome.scenario.across for outcome in measured):
        parts += [ACROSS_NOTE, ""]
    parts += _misses(measured)
    rushed = [outcome for outcome in measured if any(map(outcome.processor_ratio, outcome.opponents))]
    if rushed:
        parts += [
            "",
            "The ratios of work per second of processor time that the servers used, medians; more is better,",
            "also where a time is measured above. These hardly feel what else the machine does, but do not see",
            f"a server that waits. {MISSED} marks those that fall short of the target for the rate.",
            "",
            processor_table(rushed),
        ]
    parts += ["", "The figures behind them, medians:", "", value_table(measured)]
    if any(outcome.unsaturated(one.contestant) for outcome in measured for one in outcome.rounds):
        parts += [
            "",
            f"{UNSATURATED} Busy for less than {SATURATED_FROM:.0%} of the time: this server could have done "
            "more, had it not waited for something, the load generator perhaps.",
        ]
    if any(outcome.figures(outcome.subject, "wire_bytes") for outcome in measured):
        parts += ["", f"Bytes of a delivery on the wire, and the ratio {subject} / peer:", ""]
        parts.append(bytes_table(measured))
    if any(outcome.work(outcome.subject) for outcome in measured):
        parts += [
            "",
            "Where the time goes: a server's processor time for one unit of work in µs, medians, and the part of",
            "it that the kernel takes.",
            "",
            time_table(measured),
            "",
            "The share of the rounds in which the load generator was busy, or ready and without its core; medians:",
            "",
            load_table(measured),
        ]
    if any(outcome.figures(outcome.subject, "engine_ran") for outcome in measured):
        parts += [
            "",
            "The engine's processor time for one unit of work in µs, medians:",
            "",
            engine_table(measured),
        ]
    parts += _subscribers(measured)
    parts += _twice(measured)
    parts += _profiles(measured)
    failed = [(one.scenario, name, text) for one in measured for name, text in one.errors.items()]
    lacking = [(one.scenario, name, text) for one in measured for name, text in one.left_out.items()]
    for title, found in (("Failed:", failed), ("Left out:", lacking)):
        if found:
            parts += ["", title]
            parts += [f"- {scenario.title}, {name}: {text}" for scenario, name, text in found]
    return "\n".join(parts)


def _misses(measured: Sequence[Outcome]) -> list[str]:
    missed = [
        f"- {outcome.scenario.title}: {outcome.ratio(name):.2f} against {TITLES[name]}, "
        f"target {outcome.target(name)}"
        for outcome in measured
        for name in outcome.missed()
    ]
    missed += [
        f"- {outcome.scenario.title}, bytes on the wire: {outcome.wire_ratio(name):.2f} against {TITLES[name]}, "
        f"target {outcome.scenario.wire_targets[name]}"
        for outcome in measured
        for name in outcome.missed_bytes()
    ]
    if missed:
        return [f"{MISSED} missed:", *missed]
    if any(
        outcome.target(name) and outcome.ratios(name) for outcome in measured for name in outcome.opponents
    ):
        return ["Every target that was measured is reached."]
    return []


def _subscribers(measured: Sequence[Outcome]) -> list[str]:
    parts = []
    for outcome in measured:
        heard = {
            name: max(found.values())
            for name in (outcome.subject, *outcome.opponents)
            if (found := outcome.figures(name, "subscribers"))
        }
        if heard:
            load = outcome.scenario.load
            said = ", ".join(f"{outcome.scenario.titles[name]} {count:.0f}" for name, count in heard.items())
            needed = load.processes - 2
            parts += [
                "",
                f"Subscribers of a group with members in {needed} of {load.processes} processes: {said}.",
            ]
    return parts


def _twice(measured: Sequence[Outcome]) -> list[str]:
    parts = []
    for outcome in measured:
        repeated = {
            name: sum(found.values())
            for name in (outcome.subject, *outcome.opponents)
            if (found := outcome.figures(name, "twice")) and any(found.values())
        }
        if repeated:
            said = ", ".join(
                f"{name_in(outcome, name)} {twice:,} of {sum(outcome.figures(name, 'count').values()):,}"
                for name, twice in repeated.items()
            )
            parts += ["", f"Done more than once, and counted once ({outcome.scenario.title}): {said}."]
    return parts


def name_in(outcome: Outcome, name: str) -> str:
    """A contestant's, with its load where that is what is compared."""
    loads, titles = outcome.scenario.itself_titles, outcome.scenario.titles
    if loads is None or name not in (outcome.subject, ITSELF):
        return titles[name]
    return f"{titles[outcome.subject]}, {loads[name == ITSELF]}"


def _profiles(measured: Sequence[Outcome]) -> list[str]:
    profiled = [outcome for outcome in measured if outcome.profile]
    if not profiled:
        return []
    parts = [
        "",
        f"What {TITLES[profiled[0].subject]}'s processor is in, by perf, and which Python module it is in, or has",
        "called from, by py-spy (to which a wait for events may look like work of trio's):",
    ]
    for outcome in profiled:
        assert outcome.profile is not None
        parts.append(f"- {outcome.scenario.title}")
        for shares in (outcome.profile.objects, outcome.profile.modules):
            shown = [f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.015]
            if shown:
                parts.append(f"  - {', '.join(shown)}")
    return parts

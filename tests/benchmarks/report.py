"""From measured rounds to ratios, tables and JSON. Nothing here measures or starts anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.scenarios import ITSELF, PEERS, SUBJECT, TITLES, Scenario

MISSED = "✗"
UNSATURATED = "°"
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

    def values(self, contestant: str) -> dict[int, float]:
        return {one.number: one.value for one in self.rounds if one.contestant == contestant}

    def ratios(self, opponent: str) -> list[float]:
        """Subject / opponent for each round that has both: drift of the machine falls out of it."""
        ours, theirs = self.values(self.subject), self.values(opponent)
        return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys())]

    def processor_ratio(self, opponent: str) -> float | None:
        """The median ratio of what a second of the servers' processor time brings; None if not a rate."""
        if self.scenario.lower_is_better:
            return None
        per_second = {
            (one.contestant, one.number): one.value / one.server_ran for one in self.rounds if one.server_ran
        }
        ratios = [
            per_second[self.subject, number] / value
            for (name, number), value in per_second.items()
            if name == opponent and (self.subject, number) in per_second
        ]
        return median(ratios) if ratios else None

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
        }


def number(value: float) -> str:
    """Three digits or more where they mean something: 0.97, 12.4, 52,310."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio_table(outcomes: Sequence[Outcome]) -> str:
    """One row a scenario, one column an opponent: the median ratio, its target, and ✗ where it is missed."""
    columns = _columns(outcomes)
    rows = [["scenario", *(TITLES[name] for name in columns)]]
    for outcome in outcomes:
        rows.append([outcome.scenario.title, *(_ratio_cell(outcome, name) for name in columns)])
    return _markdown(rows)


def _ratio_cell(outcome: Outcome, opponent: str) -> str:
    if opponent in outcome.errors or (outcome.subject in outcome.errors and opponent in outcome.opponents):
        return "failed"
    ratio = outcome.ratio(opponent)
    if ratio is None:
        return "–"
    text = f"{ratio:.2f}"
    target = outcome.target(opponent)
    if target is not None:
        text += f" ({'≤' if outcome.scenario.lower_is_better else '≥'} {target:.1f})"
    return text + (f" {MISSED}" if opponent in outcome.missed() else "")


def processor_table(outcomes: Sequence[Outcome]) -> str:
    """The rates once more, each divided by the processor time that its server used for it."""
    columns = _columns(outcomes)
    rows = [["scenario", *(TITLES[name] for name in columns)]]
    for outcome in outcomes:
        ratios = [outcome.processor_ratio(name) for name in columns]
        if any(ratios):
            rows.append([outcome.scenario.title, *(f"{ratio:.2f}" if ratio else "–" for ratio in ratios)])
    return _markdown(rows)


def value_table(outcomes: Sequence[Outcome]) -> str:
    """One row a scenario, one column a server: the median figure itself, good for its order of magnitude."""
    columns = _columns(outcomes)
    subjects = {outcome.subject for outcome in outcomes}
    rows = [["scenario", "unit", *(TITLES[name] for name in (*subjects, *columns))]]
    for outcome in outcomes:
        cells = []
        for name in (*subjects, *columns):
            values = outcome.values(name).values()
            mark = UNSATURATED if outcome.unsaturated(name) else ""
            cells.append(number(median(values)) + mark if values else "–")
        rows.append([outcome.scenario.title, outcome.scenario.unit, *cells])
    return _markdown(rows)


def _columns(outcomes: Sequence[Outcome]) -> list[str]:
    """The opponents of all outcomes but those that were not asked for: neither measured nor failed."""
    seen = {one.contestant for outcome in outcomes for one in outcome.rounds}
    seen |= {name for outcome in outcomes for name in outcome.errors}
    seen -= {outcome.subject for outcome in outcomes}
    return [name for name in (*PEERS, ITSELF) if name in seen]


def _markdown(rows: list[list[str]]) -> str:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def full_report(outcomes: Sequence[Outcome]) -> str:
    """Both tables and what is to be said about them."""
    measured = [outcome for outcome in outcomes if outcome.rounds or outcome.errors]
    if not measured:
        return "Nothing was measured."
    subject = TITLES[measured[0].subject]
    parts = [f"Ratios {subject} / peer, medians over the rounds:", "", ratio_table(measured), ""]
    missed = [(outcome, name) for outcome in measured for name in outcome.missed()]
    if missed:
        parts.append(f"{MISSED} missed:")
        parts += [
            f"- {outcome.scenario.title}: {outcome.ratio(name):.2f} against {TITLES[name]}, "
            f"target {outcome.target(name)}"
            for outcome, name in missed
        ]
    elif any(
        outcome.target(name) and outcome.ratios(name) for outcome in measured for name in outcome.opponents
    ):
        parts.append("Every target that was measured is reached.")
    parts += ["", "The figures behind them, medians:", "", value_table(measured)]
    if any(outcome.unsaturated(one.contestant) for outcome in measured for one in outcome.rounds):
        parts += [
            "",
            f"{UNSATURATED} Busy for less than {SATURATED_FROM:.0%} of the time: this server could have done "
            "more, had it not waited for something, the load generator perhaps.",
        ]
    if any(outcome.processor_ratio(name) for outcome in measured for name in outcome.opponents):
        parts += [
            "",
            "The ratios per second of processor time that the servers used, medians. These hardly feel what else",
            "the machine does, but do not see a server that waits; the targets are for the first table.",
            "",
            processor_table(measured),
        ]
    failures = [(outcome, name, text) for outcome in measured for name, text in outcome.errors.items()]
    if failures:
        parts += ["", "Failed:"]
        parts += [f"- {outcome.scenario.title}, {name}: {text}" for outcome, name, text in failures]
    return "\n".join(parts)

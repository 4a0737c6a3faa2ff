"""The rounds as a picture: one panel a scenario, one bar a server, one dot a round. Hand-made SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from xml.sax.saxutils import escape

from benchmarks.report import Outcome, name_in, number
from benchmarks.scenarios import TITLES

WIDTH = 1180
COLUMNS = 2
MARGIN = 28
GAP = 36
HEAD = 84
PANEL_HEAD = 54
ROW = 26
BAR = 16
LABELS = 214
VALUES = 124

SUBJECT_COLOUR = "#0f766e"
PEER_COLOUR = "#b6bfc9"
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2933 }
.h1 { font-size: 20px; font-weight: 600 }
.h2 { font-size: 14.5px; font-weight: 600 }
.small { font-size: 12px; fill: #5b6773 }
.ours { font-weight: 600; fill: #0f766e }
"""


def draw(outcomes: Sequence[Outcome]) -> str:
    """An SVG document of all outcomes that have rounds."""
    shown = [outcome for outcome in outcomes if outcome.rounds]
    panel_width = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
    parts: list[str] = []
    top = float(HEAD)
    for start in range(0, len(shown), COLUMNS):
        row = shown[start : start + COLUMNS]
        for column, outcome in enumerate(row):
            left = MARGIN + column * (panel_width + GAP)
            parts += _panel(outcome, left, top, panel_width)
        top += PANEL_HEAD + ROW * max(len(_bars(outcome)) for outcome in row) + GAP
    height = math.ceil(top)
    subject = TITLES[shown[0].subject] if shown else ""
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="Benchmarks of {escape(subject)}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(MARGIN, 38, f"{subject} beside its peers", "h1"),
        _text(
            MARGIN,
            60,
            "Bars: medians. Dots: the rounds, in which the servers are loaded in turn, on one core. "
            f"In brackets: {subject}'s ratio to that server, median of the rounds.",
            "small",
        ),
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def _bars(outcome: Outcome) -> list[str]:
    """The subject and those measured beside it, best first."""
    names = [outcome.subject, *outcome.opponents]
    measured = [name for name in names if outcome.values(name)]
    return sorted(
        measured,
        key=lambda name: median(outcome.values(name).values()),
        reverse=not outcome.scenario.lower_is_better,
    )


def _panel(outcome: Outcome, left: float, top: float, width: float) -> list[str]:
    scenario = outcome.scenario
    better = "lower is better" if scenario.lower_is_better else "higher is better"
    title = scenario.title.replace(" (lower is better)", "")
    parts = [
        _text(left, top + 14, title, "h2"),
        _text(left, top + 33, f"{scenario.unit}, {better}", "small"),
    ]
    names = _bars(outcome)
    most = max(value for name in names for value in outcome.values(name).values())
    room = width - LABELS - VALUES
    for index, name in enumerate(names):
        ours = name == outcome.subject
        y = top + PANEL_HEAD + index * ROW
        middle = y + BAR / 2
        values = outcome.values(name).values()
        length = max(median(values) / most * room, 1)
        parts.append(
            _text(left + LABELS - 10, middle + 4.5, name_in(outcome, name), "ours" if ours else "", "end")
        )
        parts.append(
            f'<rect x="{left + LABELS:.1f}" y="{y:.1f}" width="{length:.1f}" height="{BAR}" rx="2" '
            f'fill="{SUBJECT_COLOUR if ours else PEER_COLOUR}"/>'
        )
        parts += [
            f'<circle cx="{left + LABELS + value / most * room:.1f}" cy="{middle:.1f}" r="2.2" '
            'fill="#1f2933" fill-opacity="0.55"/>'
            for value in values
        ]
        text = number(median(values))
        ratio = outcome.ratio(name)
        if not ours and ratio is not None:
            text += f"  ({ratio:.2f}×)"
        at = left + LABELS + max(length, max(values) / most * room) + 10
        parts.append(_text(at, middle + 4.5, text, "ours" if ours else ""))
    return parts


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        + (f' class="{style}"' if style else "")
        + f">{escape(text)}</text>"
    )

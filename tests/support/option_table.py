"""The options as ``docs/command-line.md`` has them, made from the tables that the command line itself is made of.

python tests/support/option_table.py    write these parts of the page
"""

from __future__ import annotations

from pathlib import Path

from triochan import other_servers
from triochan.options import TABLE, Option

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
BEGIN = "<!-- made by `just options` -->"
END = "<!-- until here -->"


def options() -> str:
    """A table for each heading of --help."""
    lines: list[str] = []
    for section, rows in TABLE.items():
        lines += [
            f"### {section[0].upper()}{section[1:]}",
            "",
            "| option | default | unit | environment | key in a file | what it does |",
            "|---|---|---|---|---|---|",
            *(_option(row) for row in rows),
            "",
        ]
    return "\n".join(lines).rstrip()


def _option(option: Option) -> str:
    metavar = "" if option.switch or option.name == "app" else f" {option.metavar or option.name.upper()}"
    flag = f"{option.flag}{metavar}"
    if option.switch:
        flag = f"{flag}`, `--no-{option.key}"
    default = option.shown_default
    for unit in ("s", "bytes"):
        default = default.removesuffix(f" {unit}")
    cells = [
        f"`{flag}`",
        default,
        option.unit or ("any number" if option.several else ""),
        f"`{option.variable}`",
        f"`{option.key}`" if option.in_file else "",
        option.help,
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def elsewhere() -> str:
    """What other servers call what is here."""
    lines = ["| there | of | here |", "|---|---|---|"]
    for flag, found in other_servers.OPTIONS.items():
        if found.here.startswith("--"):
            lines.append(f"| `{flag}` | {', '.join(found.servers)} | {found.here} |")
    return "\n".join(lines)


def replaced(page: str) -> str:
    """``page`` with both parts made anew.

    Raises:
        ValueError: it has not two pairs of markers.
    """
    before, *parts = page.split(BEGIN)
    if len(parts) != 2 or any(part.count(END) != 1 for part in parts):
        raise ValueError(f"the page has to have {BEGIN!r} and, behind it, {END!r} twice")
    made = [before]
    for part, text in zip(parts, (options(), elsewhere()), strict=True):
        made.append(f"{BEGIN}\n\n{text}\n\n{END}{part.partition(END)[2]}")
    return "".join(made)


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text()))

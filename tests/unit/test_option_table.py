"""The page of options is made from the tables that the command line is made of."""

from __future__ import annotations

import re
from pathlib import Path

import option_table
import pytest

from triochan.configuration import configure
from triochan.options import OPTIONS, make_parser


def test_the_page_is_not_stale() -> None:
    page = option_table.PAGE.read_text()
    assert option_table.replaced(page) == page, "run `just options`"


def test_every_option_of_the_parser_is_on_the_page() -> None:
    page = option_table.PAGE.read_text()
    for command in ("", "routes", "check"):
        for action in make_parser(command)._actions:
            for flag in action.option_strings:
                assert re.search(rf"`(triochan routes )?{flag}[` ]", page) or flag == "-h", flag
    for option in OPTIONS.values():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{option.flag}"))
        assert f"`{option.variable}`" in row
        assert (f"`{option.key}`" in row) == option.in_file


def test_the_file_of_the_page_is_read(tmp_path: Path) -> None:
    [text] = re.findall(r"^```toml\n(.*?)^```$", option_table.PAGE.read_text(), re.MULTILINE | re.DOTALL)
    file = tmp_path / "triochan.toml"
    file.write_text(text)
    file.chmod(0o600)
    found = configure(make_parser().parse_args(["--config", str(file)]), {})
    assert found.options.max_message_size == 2 * 2**20
    assert found.options.channel_capacity == {"chat.*": 1000, "*": 100}
    assert found.warnings == []


@pytest.mark.parametrize(
    "page",
    [
        "",
        option_table.BEGIN,
        option_table.END,
        option_table.BEGIN * 2,
        (option_table.BEGIN + option_table.END) * 3,
    ],
)
def test_a_page_without_its_markers_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="twice"):
        option_table.replaced(page)

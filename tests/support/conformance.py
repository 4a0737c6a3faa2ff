"""Which test holds what the RFCs ask of a server: ``docs/conformance.md``, made from the tests' ``rfc`` marks.

    python tests/support/conformance.py          write the page
    python tests/support/conformance.py --check  exit with 1 where it is stale

A mark is ``@pytest.mark.rfc("9112", "3.2", "MUST …")`` above a test or a class of tests, its arguments plain strings:
the page is made without importing a test. What is asked and not tested stands in :data:`WITHOUT_TEST`, with the reason.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "conformance.md"

TITLES = {
    "9112": "HTTP/1.1",
    "9110": "HTTP Semantics",
    "6455": "The WebSocket Protocol",
    "7692": "Compression Extensions for WebSocket",
}

SECTIONS = {
    "9112": "2.2 3 3.2 3.2.2 4 5.1 5.2 6.1 6.2 6.3 7.1 7.1.1 7.1.2 7.4 9.3 9.3.2 9.6 9.7 9.8 10.1",
    "9110": (
        "2.2 2.3 2.4 3.3 4.2.1 4.2.2 4.2.4 5.3 5.4 5.5 5.6.1.1 5.6.1.2 5.6.3 5.6.4 5.6.7 6.2 6.5.1 6.6.1 7.1 "
        "7.4 7.6.1 7.8 8.4 8.6 8.7 8.8.2.1 8.8.3 9.1 9.2.1 9.3.2 9.3.4 9.3.6 10.1.1 10.1.4 10.2.1 11.6.1 "
        "12.5.3 13.1.1 13.1.2 13.1.3 13.1.4 13.1.5 13.2.1 13.2.2 14.1.2 14.2 14.4 15.2 15.2.2 15.3.6 15.3.7 "
        "15.3.7.1 15.3.7.2 15.4.5 15.5.2 15.5.6 15.5.22"
    ),
    "6455": (
        "4.2.1 4.2.2 4.4 5.1 5.2 5.3 5.4 5.5 5.5.1 5.5.2 5.5.3 5.6 5.8 6.1 6.2 7.1.1 7.1.7 7.4.1 7.4.2 8.1 "
        "9.1 10.7"
    ),
    "7692": "5 5.1 6.1 6.2 7.1 7.1.1.1 7.1.1.2 7.1.2.1 7.1.2.2 7.2.1 7.2.2 7.2.3.6",
}  # fmt: skip
"""The sections that ask something of a server, each of which has a row."""


class Requirement(NamedTuple):
    """What a section of an RFC asks of a server, in words of our own."""

    rfc: str
    section: str
    text: str

    def place(self) -> tuple[int, list[int], str]:
        """Where the page has it."""
        return list(TITLES).index(self.rfc), [int(part) for part in self.section.split(".")], self.text


FAILS = " (expected to fail)"
PROGRAM = "The program's to decide: its consumer gets the request as it came, and gives status and fields."
NOT_SENT = "The server sends none."

WITHOUT_TEST = {
    Requirement(*key): reason
    for *key, reason in [
        (
            "9112", "6.1",
            "MUST NOT send Transfer-Encoding in a 2xx answer to CONNECT",
            "CONNECT is never answered with 2xx.",
        ),
        (
            "9112", "7.4",
            "MUST list TE in Connection where it is sent",
            NOT_SENT,
        ),
        (
            "9112", "10.1",
            "MUST unfold lines of a message/http body",
            "No such body is read: it is bytes to the consumer.",
        ),
        (
            "9110", "2.3",
            "MUST be able to read elements as long as those that it sends",
            "A head of 16 KiB and a body of 1 MiB are read by default; what the server sends of its own is "
            "shorter.",
        ),
        (
            "9110", "2.4",
            "MUST take elements for what they are defined to be",
            "What the rows below test one by one.",
        ),
        (
            "9110", "3.3",
            "MUST NOT take two requests of a connection for those of one user agent",
            "Nothing is kept from one request of a connection to the next: sessions come by cookie, with each "
            "request.",
        ),
        (
            "9110", "5.6.1.1",
            "MUST NOT send empty members of a list",
            "Of the lists, the server writes Connection alone, from its own words; the others are the program's.",
        ),
        (
            "9110", "5.6.4",
            "MUST read a quoted pair as the character behind the backslash",
            "Quoted strings are read in WebSocket extensions only, where no value with a backslash is a valid "
            "one; in a chunk's extensions they are passed over.",
        ),
        (
            "9110", "7.8",
            "MUST ignore Upgrade in an HTTP/1.0 request",
            "A handshake in HTTP/1.0 is answered 400, as RFC 6455 section 4.2.1 asks; nothing is switched. Any "
            "other Upgrade is ignored.",
        ),
        (
            "9110", "8.7",
            "MUST take Content-Location in a request for context, not for something to save",
            PROGRAM,
        ),
        (
            "9110", "9.2.1",
            "MUST NOT let a safe method do what is unsafe",
            PROGRAM,
        ),
        (
            "9110", "9.3.4",
            "MUST answer a PUT with 201, 200 or 204 as it created or changed, and with no validator of another "
            "content",
            PROGRAM,
        ),
        (
            "9110", "10.1.4",
            "MUST list TE in Connection where it is sent",
            NOT_SENT,
        ),
        (
            "9110", "11.6.1",
            "MUST send WWW-Authenticate with 401",
            "The program's: the server itself never answers 401.",
        ),
        (
            "9110", "12.5.3",
            "MUST NOT send Accept-Encoding with 415 that is about something else",
            "The program's: the server itself never answers 415.",
        ),
        (
            "9110", "15.5.2",
            "MUST send WWW-Authenticate with 401",
            "The program's: the server itself never answers 401.",
        ),
        (
            "9110", "13.1.2",
            "MUST answer 412 where If-None-Match is not met by another method than GET and HEAD",
            PROGRAM + " Static files know GET and HEAD only.",
        ),
        (
            "9110", "13.1.3",
            "MUST read times in terms of the server's clock",
            "Static files compare with the file system's times, which are the server's.",
        ),
        (
            "9110", "15.3.7.2",
            "MUST send multipart/byteranges with 206 for several parts",
            "Several ranges get the whole, as section 14.2 allows.",
        ),
        (
            "6455", "5.8",
            "MUST agree on extensions in the opening handshake",
            "There is no other place: the agreement is an argument of the connection's decoder.",
        ),
        (
            "6455", "10.7",
            "MUST treat what comes as not to be trusted",
            "What the fuzzers and the tests of bad input are for (tests/fuzz, tests/real/test_bad_input.py).",
        ),
        (
            "7692", "5.1",
            "MUST NOT fail the connection where an offer is declined",
            "A handshake whose offers are all declined opens without compression; see section 7.1.",
        ),
    ]
}  # fmt: skip


def marks(source: str, path: str) -> Iterator[tuple[Requirement, str]]:
    """The ``rfc`` marks of a test module, each with the test's name.

    Raises:
        ValueError: a mark whose arguments are not three strings, or name no section of one of the RFCs.
    """

    def walk(body: Iterable[ast.stmt], prefix: str) -> Iterator[tuple[Requirement, str]]:
        for node in body:
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            name = f"{prefix}::{node.name}"
            fails = any(ast.unparse(each).startswith("pytest.mark.xfail") for each in node.decorator_list)
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.rfc":
                    yield (
                        _requirement(decorator, f"{path}:{decorator.lineno}"),
                        name + (FAILS if fails else ""),
                    )
            if isinstance(node, ast.ClassDef):
                yield from walk(node.body, name)

    yield from walk(ast.parse(source).body, path)


def _requirement(call: ast.Call, where: str) -> Requirement:
    given = [
        each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
    ]
    if len(given) != 3 or len(call.args) != 3 or call.keywords:
        raise ValueError(f"{where}: rfc takes three strings: number, section and what it asks")
    requirement = Requirement(*given)
    if requirement.rfc not in TITLES or not re.fullmatch(r"\d+(\.\d+)*", requirement.section):
        raise ValueError(f"{where}: no section of RFC {', '.join(TITLES)}: {given[:2]}")
    return requirement


def collect(folder: Path = ROOT / "tests") -> dict[Requirement, list[str]]:
    """What the tests below ``folder`` hold, with the names of those tests."""
    held: dict[Requirement, list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        source = path.read_text()
        if "mark.rfc(" not in source:  # the others take longer to parse than all of these
            continue
        for requirement, test in marks(source, path.relative_to(folder.parent).as_posix()):
            held.setdefault(requirement, []).append(test)
    return held


def render(held: dict[Requirement, list[str]]) -> str:
    """The page."""
    lines = [
        "# Conformance",
        "",
        "What RFC 9112, 9110, 6455 and 7692 ask of a server, with the tests that hold it. Made from the tests:",
        "`just conformance` writes this page, and a test fails where it is stale. The words are our own, those of the",
        "RFCs count. What is asked of clients, proxies and caches is not here: the server is none of them.",
        "",
        f"{len(held)} requirements are held by {len({test for tests in held.values() for test in tests})} tests; "
        f"{len(WITHOUT_TEST)} have none, for the reason given.",
    ]
    rfc = None
    for requirement in sorted([*held, *WITHOUT_TEST], key=Requirement.place):
        if requirement.rfc != rfc:
            rfc = requirement.rfc
            lines += [
                "",
                f"## RFC {rfc}: {TITLES[rfc]}",
                "",
                "| section | what is asked | held by |",
                "|---|---|---|",
            ]
        tests = held.get(requirement)
        by = "<br>".join(map(_short, tests)) if tests else f"no test: {WITHOUT_TEST[requirement]}"
        lines.append(f"| {requirement.section} | {requirement.text} | {by} |")
    return "\n".join(lines) + "\n"


def _short(test: str) -> str:
    name = test.removeprefix("tests/").removesuffix(FAILS)
    return f"`{name}`{FAILS if test.endswith(FAILS) else ''}"


def main(arguments: list[str]) -> int:
    page = render(collect())
    if arguments == ["--check"]:
        return 0 if PAGE.exists() and PAGE.read_text() == page else 1
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The documents of the product: what they name is there, and commands can be typed as written.

Each check of checks.py is applied to each document, and to a sentence with a mistake.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from migrate.signals import INTERRUPTING
from tests.unit.documents.checks import (
    CHANGELOG,
    DOCS,
    DOCUMENTS,
    PATH,
    README,
    ROOT,
    WIDTH,
    Check,
    all_codes,
    broken_links,
    commands,
    links,
    missing_paths,
    missing_symbols,
    unknown_codes,
    wide_lines,
    wrong_commands,
    wrong_options,
    wrong_scripts,
)

README_LINES = 90


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


CHECKS: list[Check] = [
    wrong_commands,
    wrong_options,
    wrong_scripts,
    missing_paths,
    missing_symbols,
    broken_links,
    unknown_codes,
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_document_has_no_mistake(document: Path, check: Check) -> None:
    assert check(document.read_text(), document) == []


@pytest.mark.parametrize(
    ("check", "text", "wrong"),
    [
        (wrong_commands, "Say `migrate redis beta --max-downtimes 3`.", "--max-downtimes"),
        (wrong_commands, "    migrate redis beta --on-no-converge wait", "wait"),
        (wrong_commands, "    scripts/rig exec a -- migrate redis --json", "HOST"),
        (wrong_commands, "Say `migratectl stop`.", "stop"),
        (wrong_commands, "    migratectl recover ID --on beta --go --abort", "--abort"),
        (wrong_options, "With `--verify` all pages are compared.", "--verify"),
        (wrong_options, "With `--on-no-converge wait` it waits.", "wait"),
        (wrong_scripts, "Run `scripts/soak`.", "scripts/soak"),
        (wrong_scripts, "    scripts/bench --cases x", "--cases"),
        (wrong_scripts, "    scripts/rig reboot", "reboot"),
        (missing_paths, "See migrate/memory/compression.py.", "migrate/memory/compression.py"),
        (missing_paths, "See `compression.py`.", "compression.py"),
        (missing_paths, "See checkpoint/engines/*/nothing.py.", "checkpoint/engines/*/nothing.py"),
        (missing_symbols, "`compress` in `migrate/memory/encoding.py`", "compress"),
        (missing_symbols, "`encode` in\n`migrate/memory/nothing.py`", "encode"),
        (broken_links, "See [files](file.md).", "file.md"),
        (broken_links, "See [files](files.md#memory-and-discs).", "files.md#memory-and-discs"),
        (broken_links, "# One\n\nSee [below](#two).", "#two"),
        (unknown_codes, "It ends with exit code 18.", "18"),
        (unknown_codes, "It ends with exit codes 12, 13 and 19.", "19"),
        (wide_lines, "x" * (WIDTH + 1), "line 1"),
    ],
)
def test_a_check_finds_a_mistake(check: Check, text: str, wrong: str) -> None:
    found = check(text, DOCS / "faq.md")
    assert len(found) == 1
    assert wrong in found[0]


def test_commands_paths_and_links_are_found() -> None:
    assert ["migrate", "redis", "beta", "--json"] in list(commands(README.read_text()))
    shown = list(commands((DOCS / "first-move.md").read_text()))
    assert ["migrate", "web", "beta"] in shown, "a command that is given to a node"
    assert "scripts/demo" in PATH.findall(README.read_text())
    assert "docs/faq.md" in links(README.read_text())


@pytest.mark.parametrize(
    "document",
    [README, CHANGELOG, ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))],
    ids=name_of,
)
def test_lines_are_not_too_wide(document: Path) -> None:
    assert wide_lines(document.read_text(), document) == []


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= README_LINES


def reached_from(start: Path) -> set[Path]:
    """Return the documents to which links lead from a document, directly or not."""
    found, pending = set[Path](), [start]
    while pending:
        place = pending.pop()
        if place not in found:
            found.add(place)
            targets = [link.partition("#")[0] for link in links(place.read_text())]
            pending += [
                (place.parent / target).resolve() for target in targets if target.endswith(".md")
            ]
    return found


def test_every_document_is_reached_from_the_readme() -> None:
    assert reached_from(README) == {README, *DOCUMENTS}


# --- exit codes --------------------------------------------------------------------------------


def entries(text: str) -> dict[int, str]:
    """Return {exit code: name} of the headings of troubleshooting.md.

    The name of an interruption's code is "interrupted".
    """
    found = {}
    for numbers, name in re.findall(r"^### ([\d, ]+): (\w+)$", text, re.MULTILINE):
        found.update({int(number): name for number in numbers.split(",")})
    return found


def test_every_failure_has_an_entry() -> None:
    interrupted = {128 + number: "interrupted" for number in INTERRUPTING}
    assert entries((DOCS / "troubleshooting.md").read_text()) == {**all_codes(), **interrupted}


def test_an_entry_that_is_missing_or_wrong_is_seen() -> None:
    assert entries("### 10: NoSuchContainer\n### 129, 130: interrupted\n## 11: NotRunning\n") == {
        10: "NoSuchContainer",
        129: "interrupted",
        130: "interrupted",
    }


def test_interruptions_are_in_the_list_of_codes() -> None:
    text = (DOCS / "exit-codes.md").read_text()
    for number in INTERRUPTING:
        assert re.search(rf"\b{128 + number}\b", text)

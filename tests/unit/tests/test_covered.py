"""Tests of tests/covered.py: what is complained of, and the existence of the listed tests."""

from __future__ import annotations

import ast
from collections.abc import Mapping

import pytest

from tests.covered import ENOUGH, LIST, ROOT, Listed, Measured, complaints, read_list, read_report

#: A report of `coverage json`, as far as it is read.
REPORT = """{
  "totals": {"percent_statements_covered": 90.5, "percent_branches_covered": 85.0},
  "files": {"migrate/a.py": {"summary": {"percent_covered": 84.9}}}
}"""
A, B = "migrate/a.py", "migrate/b.py"


def measured(statements: float = 90, branches: float = 90, **modules: float) -> Measured:
    """Return a measurement. Modules are given by their names between migrate/ and .py."""
    found = {f"migrate/{name}.py": part for name, part in modules.items()}
    return Measured(statements=statements, branches=branches, modules=found)


def listed(**percent: int) -> Mapping[str, Listed]:
    return {f"migrate/{name}.py": Listed(percent=part, tests=()) for name, part in percent.items()}


def test_the_report_of_coverage_is_read() -> None:
    assert read_report(REPORT) == measured(90.5, 85.0, a=84.9)


def test_the_list_of_modules_is_read() -> None:
    text = (
        "# Text\n\n- `migrate/a.py`: 70 %\n"
        "  - `tests/unit/test_a.py`\n  - `tests/vm/test_b.py`: `test_c`\n"
    )
    tests = (("tests/unit/test_a.py", ""), ("tests/vm/test_b.py", "test_c"))
    assert read_list(text) == {A: Listed(percent=70, tests=tests)}


@pytest.mark.parametrize(
    ("found", "table", "told"),
    [
        (measured(a=85, b=100), {}, []),
        (measured(statements=84.9), {}, ["84.9 % of statements are covered, and 85 % have to be"]),
        (measured(branches=84.9), {}, ["84.9 % of branches are covered, and 85 % have to be"]),
        (measured(a=84.9), {}, [f"{A}: 85 % are covered, and {LIST.name} does not name it"]),
        (measured(a=84.9), listed(a=85), []),
        (measured(a=89.9), listed(a=87), []),
        (measured(a=90), listed(a=88), [f"{A}: 90 % are covered, and {LIST.name} still names it"]),
        (measured(a=53.1), listed(a=50), [f"{A}: 53 % are covered, and {LIST.name} says 50 %"]),
        (measured(a=46.9), listed(a=50), [f"{A}: 47 % are covered, and {LIST.name} says 50 %"]),
        (
            measured(a=50),
            listed(a=50, b=50),
            [f"{B}: it is not measured, and {LIST.name} names it"],
        ),
    ],
)
def test_what_is_not_covered_or_wrongly_listed_is_told(
    found: Measured, table: Mapping[str, Listed], told: list[str]
) -> None:
    assert complaints(found, table) == told


def test_what_is_listed_exists() -> None:
    text = LIST.read_text()
    entries = read_list(text)
    assert len(entries) == text.count("\n- `")
    assert sum(len(entry.tests) for entry in entries.values()) == text.count("\n  - ")
    for module, entry in entries.items():
        assert (ROOT / module).exists()
        assert entry.percent < ENOUGH
        assert entry.tests, f"{module}: no test is named"
        for file, function in entry.tests:
            tree = ast.parse((ROOT / file).read_text())
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert function in {*functions, ""}, f"{module}: {file} has no {function}"

"""The measurement of the product's statements and branches that unit and contract tests go through.

With --coverage, as scripts/test has it, each of pytest's worker processes measures itself from the
start of its interpreter, before the first import of the product: coverage.py does so where
COVERAGE_PROCESS_START is set (https://coverage.readthedocs.io/en/latest/subprocess.html). A child
that a worker forks is measured until its `os._exit`. A program that a test starts is not measured:
many of them run without Python's site packages on purpose, and the start of each would take three
times as long. Tests on the rig do not count, because the product runs on nodes there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = str(ROOT / "pyproject.toml")
LIST = ROOT / "docs/internals/coverage.md"
#: What coverage.py takes from the environment: its settings, and where to leave what was measured.
ENVIRONMENT = ("COVERAGE_PROCESS_START", "COVERAGE_FILE")
#: The least part in percent of all statements, of all branches, and of a module not in LIST.
LEAST = 85
#: A module with this part or more does not belong into LIST. Between both it may be there or not,
#: because threads do not meet in the same order in each run.
ENOUGH = 90
#: How far a figure in LIST may be from the measured one.
DRIFT = 3
#: An entry of LIST: a line with the module and its part, and lines with a test each.
ENTRY = re.compile(r"^- `([\w/]+\.py)`: (\d+) %\n((?:  - .*\n)*)", re.MULTILINE)
TEST = re.compile(r"^  - `(tests/[\w/.]+)`(?:: `(\w+)`)?$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An entry of LIST: a module's part in percent, its other tests as (file, function or "")."""

    percent: int
    tests: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The parts in percent of all statements, of all branches, and of each module's of both."""

    statements: float
    branches: float
    modules: Mapping[str, float]


def read_list(text: str) -> dict[str, Listed]:
    """Return the entries of LIST by module."""
    return {
        module: Listed(percent=int(percent), tests=tuple(TEST.findall(tests)))
        for module, percent, tests in ENTRY.findall(text)
    }


def complaints(measured: Measured, listed: Mapping[str, Listed]) -> list[str]:
    """Return a line for each part that is too small, and for each that differs from LIST."""
    found = [
        f"{part:.1f} % of {what} are covered, and {LEAST} % have to be"
        for what, part in (("statements", measured.statements), ("branches", measured.branches))
        if part < LEAST
    ]
    for module, part in sorted(measured.modules.items()):
        entry = listed.get(module)
        if entry is None and part < LEAST:
            found.append(f"{module}: {part:.0f} % are covered, and {LIST.name} does not name it")
        elif entry and part >= ENOUGH:
            found.append(f"{module}: {part:.0f} % are covered, and {LIST.name} still names it")
        elif entry and abs(part - entry.percent) > DRIFT:
            found.append(
                f"{module}: {part:.0f} % are covered, and {LIST.name} says {entry.percent} %"
            )
    found += [
        f"{module}: it is not measured, and {LIST.name} names it"
        for module in sorted(listed.keys() - measured.modules.keys())
    ]
    return found


def combined(directory: Path) -> Measured:
    """Put together what the processes of a run have left, and keep it as .coverage in the checkout.

    A process that was killed may leave half a file, which is passed over. Raises
    coverage.CoverageException if there is nothing.
    """
    found = coverage.Coverage(data_file=ROOT / ".coverage", config_file=PROJECT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", coverage.exceptions.CoverageWarning)
        found.combine([str(directory)], strict=True)
    found.save()
    report = directory / "report.json"
    found.json_report(outfile=str(report))
    return read_report(report.read_text())


def read_report(text: str) -> Measured:
    """Return the parts in a report of `coverage json`."""
    report = json.loads(text)
    return Measured(
        statements=report["totals"]["percent_statements_covered"],
        branches=report["totals"]["percent_branches_covered"],
        modules={
            module: found["summary"]["percent_covered"] for module, found in report["files"].items()
        },
    )


class Worker:
    """The end of a worker's measurement, which coverage.py has begun by itself."""

    def __init__(self) -> None:
        for name in ENVIRONMENT:
            del os.environ[name]  # what the tests start is not measured

    def pytest_sessionfinish(self) -> None:
        """Write down what was measured, before the controller may kill this process."""
        running = coverage.Coverage.current()
        assert running is not None, "coverage.py did not start with this process"
        running.stop()
        running.save()


class Controller:
    """The controller of the workers, which reports what they have measured as one more test."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="coverage-"))
        self._summary = "nothing was measured"
        os.environ.update(
            zip(ENVIRONMENT, (PROJECT, str(self._directory / ".coverage")), strict=True)
        )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judge what the workers have measured. A complaint fails the run."""
        if session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            shutil.rmtree(self._directory)
            return
        try:
            measured = combined(self._directory)
        except coverage.CoverageException as error:
            found = [f"nothing was measured: {error}"]
        else:
            self._summary = (
                f"{measured.statements:.1f} % of statements, {measured.branches:.1f} % of branches"
                f" (at least {LEAST} % of each)"
            )
            found = complaints(measured, read_list(LIST.read_text()))
        finally:
            shutil.rmtree(self._directory)
        if found:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.hook.pytest_runtest_logreport(report=report_of(found))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the figures."""
        terminalreporter.write_line(f"covered by unit and contract tests: {self._summary}")


def report_of(found: Sequence[str]) -> pytest.TestReport:
    """Return what pytest is told of a test: that it passed, or failed with these complaints."""
    name = "coverage"
    return pytest.TestReport(
        nodeid=name,
        location=(str(LIST.relative_to(ROOT)), None, name),
        keywords={},
        outcome="failed" if found else "passed",
        longrepr="\n".join(found) or None,
        when="call",
    )

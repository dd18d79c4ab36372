"""Tests of migrate/cli/exit_codes.py: each error has a code of its own, which never changes."""

from __future__ import annotations

import re
import signal

import pytest

from migrate import errors
from migrate.cli import exit_codes
from migrate.cli.exit_codes import CODES, CTL_CODES
from migrate.errors import MigrateError
from tests.unit.helpers.checkout import ROOT
from tests.unit.helpers.errors import all_classes, example

DOCS = ROOT / "docs"


CLASSES = [kind for kind in all_classes() if kind is not MigrateError]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = {kind: exit_codes.exit_code(example(kind)) for kind in CLASSES}
    assert len(set(codes.values())) == len(codes), codes
    assert 0 not in codes.values()
    assert 1 not in codes.values(), "an uncaught exception's"
    assert all(code < 126 or kind is errors.Interrupted for kind, code in codes.items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_as_shells_have_it(number: signal.Signals) -> None:
    assert exit_codes.exit_code(errors.Interrupted(number)) == 128 + number


def test_a_class_without_a_code_has_its_parents() -> None:
    class New(errors.NameTaken):
        pass

    assert exit_codes.exit_code(New("c", "h", "r")) == exit_codes.CODES[errors.NameTaken]


def test_the_codes_are_documented() -> None:
    rows = dict(
        re.findall(r"^\| (\d+) \| (\w+)", (DOCS / "exit-codes.md").read_text(), re.MULTILINE)
    )
    expected = {str(code): kind.__name__ for kind, code in exit_codes.CODES.items()}
    expected.update({str(code): name for name, code in exit_codes.CTL_CODES.items()})
    assert {code: name for code, name in rows.items() if code != "0"} == expected


def test_the_codes_are_frozen() -> None:
    """Schedulers act on the codes, so a number never changes its meaning."""
    assert {kind.__name__: code for kind, code in exit_codes.CODES.items()} == {
        "BadRequest": 2,
        "NoSuchContainer": 10,
        "NotRunning": 11,
        "OpenFileOutside": 12,
        "NotMovableError": 13,
        "CannotPreCopy": 14,
        "SeveralContainers": 15,
        "AlreadyMoving": 16,
        "WouldFreezeTooLong": 17,
        "TargetUnreachable": 20,
        "AuthenticationFailed": 21,
        "UnknownHostKey": 22,
        "ChangedHostKey": 23,
        "RefusedHostKey": 24,
        "NotRoot": 30,
        "MissingOnHost": 31,
        "CriuTooOld": 32,
        "CriuWireMismatch": 33,
        "MachineMismatch": 34,
        "NameTaken": 40,
        "PathTaken": 41,
        "NotEnoughMemory": 42,
        "AddressTaken": 43,
        "RefusedByEngine": 44,
        "Refused": 49,
        "RolledBack": 50,
        "LeftBehind": 51,
        "NotConverging": 52,
        "CannotTrack": 53,
        "ContainerEnded": 54,
        "MemoryDiffers": 55,
        "FrozenTooLong": 56,
        "Undecided": 60,
        "ResumeFailed": 63,
        "LostThere": 65,
        "Defect": 70,
    }


def test_no_code_of_migratectl_is_one_of_migrate() -> None:
    assert not set(CTL_CODES.values()) & set(CODES.values())

"""Tests of migrate/errors.py: each error says what is, and what to do next."""

from __future__ import annotations

import inspect
import re

import pytest

from migrate import errors
from migrate.errors import MigrateError
from tests.unit.helpers.errors import SAMPLES, all_classes, check_drawn_tree, example

CLASSES = [kind for kind in all_classes() if kind is not MigrateError]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_says_what_where_and_what_next(kind: type[MigrateError]) -> None:
    error = example(kind)
    assert str(error) == f"{error.what}; {error.where}; {error.advice}"
    for part in (error.what, error.where, error.advice):
        assert len(part) > 3
        assert part == part.strip()
        assert "None" not in part
    assert re.search(r"nothing was changed|container|source", error.where)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_argument_is_told(kind: type[MigrateError]) -> None:
    text = str(example(kind))
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.default is parameter.empty and name not in SAMPLES and name != "migration_id":
            assert f"<{name}>" in text


@pytest.mark.parametrize(
    ("root", "words"),
    [
        (errors.Refused, "nothing was changed"),
        (errors.RolledBack, "runs on the source"),
        (errors.Undecided, "held on"),
        (errors.LeftBehind, "runs on <host>"),
    ],
)
def test_each_branch_of_errors_says_where_the_container_is(
    root: type[MigrateError], words: str
) -> None:
    for kind in all_classes(root):
        assert words in example(kind).where


def test_errors_are_a_tree_that_is_drawn() -> None:
    check_drawn_tree(errors, errors.MigrateError)

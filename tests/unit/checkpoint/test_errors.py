"""Tests of checkpoint/errors.py: the errors are a tree, which its docstring draws."""

from checkpoint import errors
from tests.unit.helpers.errors import check_drawn_tree


def test_errors_are_a_tree_that_is_drawn() -> None:
    check_drawn_tree(errors, errors.CheckpointError)

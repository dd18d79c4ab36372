"""Tests of transport/errors.py: the errors are a tree, which its docstring draws."""

from tests.unit.helpers.errors import check_drawn_tree
from transport import errors


def test_errors_are_a_tree_that_is_drawn() -> None:
    check_drawn_tree(errors, errors.TransportError)

"""Examples of every error, and the trees of errors that docstrings draw."""

from __future__ import annotations

import inspect
import re
import signal
from collections.abc import Callable
from types import ModuleType
from typing import Any

from migrate.errors import MigrateError, Side

SAMPLES: dict[str, Any] = {
    "where": Side.TARGET,
    "engines": ["<engines>"],
    "pid": 7,
    "fd": 3,
    "signal_number": signal.SIGTERM,
    "error": KeyError("no luck"),
    "needed_bytes": 3 << 30,
    "available_bytes": 1 << 30,
    "limit_s": 7.5,
}


def all_classes(root: type[MigrateError] = MigrateError) -> list[type[MigrateError]]:
    """Return a class of errors and all its subclasses."""
    return [root, *(found for kind in root.__subclasses__() for found in all_classes(kind))]


def example(kind: type[MigrateError]) -> MigrateError:
    """Return an error of a class, whose every argument is recognisable in its text."""
    parameters = inspect.signature(kind).parameters.values()
    make: Callable[..., MigrateError] = kind
    given = {p: SAMPLES.get(p.name, f"<{p.name}>") for p in parameters if p.default is p.empty}
    by_name = {p.name: value for p, value in given.items() if p.kind is p.KEYWORD_ONLY}
    return make(*[each for p, each in given.items() if p.kind is not p.KEYWORD_ONLY], **by_name)


def drawn(text: str) -> dict[str, str]:
    """Return {class: its base} of a tree that is drawn as tree(1) does it."""
    found: dict[str, str] = {}
    bases: list[list[str]] = []
    for line in text.splitlines():
        branch = re.match(r"((?:[│ ]   )*)([├└]── )?(\w+(?:, \w+)*)(?:  |$)", line)
        if branch is None or (branch[2] is None and not line[:1].isupper()):
            continue
        depth, names = (len(branch[1]) // 4 + 1 if branch[2] else 0), branch[3].split(", ")
        bases[depth:] = [names]
        found.update(dict.fromkeys(names, bases[depth - 1][-1] if depth else ""))
    return found


def check_drawn_tree(module: ModuleType, root: type[Exception]) -> None:
    """Check that the tree in the docstring of an errors.py is the tree that its classes are."""
    kinds = [root]
    for kind in kinds:
        kinds += [found for found in kind.__subclasses__() if found.__module__ == module.__name__]
    tree = drawn(module.__doc__ or "")
    assert {kind.__name__: kind.__base__.__name__ for kind in kinds[1:] if kind.__base__} == {
        name: base for name, base in tree.items() if base
    }
    assert tree[root.__name__] == ""

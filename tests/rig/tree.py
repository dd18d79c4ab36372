"""Where scripts/setup keeps what nodes are made of."""

import functools
import os
from pathlib import Path

from tests.rig.process import run

SETUP = Path(__file__).resolve().parents[2] / "scripts/setup"
TREE_VARIABLE = "MIGRATE_RIG_TREE"
BUILD_TIMEOUT_S = 1800.0


@functools.cache
def node_tree() -> Path:
    """Their Debian tree. Said by the calling script, or asked of scripts/setup, which builds it where it is missing."""
    said = os.environ.get(TREE_VARIABLE)
    return Path(said) if said else _ask("tree")


@functools.cache
def vm_image() -> Path:
    """The directory with a virtual machine's kernel and disk."""
    return _ask("image")


def _ask(what: str) -> Path:
    return Path(run([SETUP, "--print", what], timeout=BUILD_TIMEOUT_S).stdout.strip())

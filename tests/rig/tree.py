"""The places where scripts/setup keeps the tree and the disk of which nodes are made."""

import functools
import os
from pathlib import Path

from tests.rig.process import run

SETUP = Path(__file__).resolve().parents[2] / "scripts/setup"
TREE_VARIABLE = "MIGRATE_RIG_TREE"
BUILD_TIMEOUT_S = 1800.0


@functools.cache
def node_tree() -> Path:
    """Return the nodes' Debian tree.

    The calling script says where it is; otherwise scripts/setup is asked, which builds it if it is
    missing.
    """
    said = os.environ.get(TREE_VARIABLE)
    return Path(said) if said else _ask("tree")


@functools.cache
def vm_image() -> Path:
    """Return the directory with the kernel and the disk of virtual machines."""
    return _ask("image")


def _ask(what: str) -> Path:
    return Path(run([SETUP, "--print", what], timeout=BUILD_TIMEOUT_S).stdout.strip())

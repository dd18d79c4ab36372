"""Where scripts/setup keeps the nodes' Debian tree."""

import functools
import os
from pathlib import Path

from tests.rig.process import run

SETUP = Path(__file__).resolve().parents[2] / "scripts/setup"
TREE_VARIABLE = "MIGRATE_RIG_TREE"
BUILD_TIMEOUT_S = 1800.0


@functools.cache
def node_tree() -> Path:
    """Said by the calling script, or asked of scripts/setup, which builds it where it is missing."""
    said = os.environ.get(TREE_VARIABLE)
    return Path(said or run([SETUP, "--print", "tree"], timeout=BUILD_TIMEOUT_S).stdout.strip())

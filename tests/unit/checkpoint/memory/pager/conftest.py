"""Fixtures of the tests of the pager."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.checkpoint.memory.pager.tasks import Target, children, exit_code

#: prctl(2): orphans of this process's descendants become its children.
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """Yield the host of the tests. Orphans become children of this process, and none is left."""
    libc, score = ctypes.CDLL(None), Path("/proc/self/oom_score_adj")
    children_before, score_before = children(), score.read_text()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    target = Target(tmp_path / "move")
    try:
        yield target
    finally:
        try:
            target.close()
        finally:
            for orphan in children() - children_before:
                os.kill(orphan, signal.SIGKILL)
                exit_code(orphan)
            libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
            score.write_text(score_before)

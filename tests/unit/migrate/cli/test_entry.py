"""Tests of migrate/cli/entry.py: Ctrl-C while a command loads its modules."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.unit.helpers.checkout import ROOT

PROGRAM = "tests.unit.migrate.cli.programs.interrupted_load"


@pytest.mark.parametrize(("program", "module"), [("migrate", "move"), ("migratectl", "ctl")])
@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_before_a_command_is_loaded_ends_it_without_a_traceback(
    program: str, module: str, ignored: bool
) -> None:
    words = [program, module, "ignored" if ignored else ""]
    done = subprocess.run(
        [sys.executable, "-m", PROGRAM, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == (0 if ignored else -signal.SIGINT)
    assert done.stdout.startswith(program) is ignored

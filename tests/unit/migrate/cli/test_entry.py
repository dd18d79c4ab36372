"""migrate/cli/entry.py: Ctrl-C while a program is being loaded."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

#: Ctrl-C comes when a module is looked for.
LOADED = """
import os, signal, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "migrate.cli.{module}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
{before}
from migrate.cli.entry import {program}
sys.argv = ["{program}", "--version"]
sys.exit({program}())
"""


@pytest.mark.parametrize(("program", "module"), [("migrate", "move"), ("migratectl", "ctl")])
@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_before_it_is_loaded(program: str, module: str, ignored: bool) -> None:
    before = "signal.signal(signal.SIGINT, signal.SIG_IGN)" if ignored else ""
    text = LOADED.format(program=program, module=module, before=before)
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.returncode == (0 if ignored else -signal.SIGINT)
    assert done.stdout.startswith(program) is ignored

"""A command that shows hostile text, on a terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from tests.unit.helpers.checkout import ROOT

SHOWN = (
    r"a\r\nmigrate: done\x1b]0;title\x07\x1b[2J\x1b[1A"
    r"\x9b31m\x9d0;t\x9c\x08\x7f\x00\u202egnp\u2066\u2028\udcff[red]z"
)
PROGRAM = "tests.unit.migrate.cli.programs.hostile_text"


def run_in_terminal(terminal: bool) -> bytes:
    """Return the output and the errors of the command, on a terminal or in a pipe."""
    argv = [sys.executable, "-m", PROGRAM, SHOWN]
    env = {**os.environ, "COLUMNS": "500", "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    if not terminal:
        return subprocess.run(
            argv, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ).stdout
    ours, theirs = pty.openpty()
    process = subprocess.Popen(argv, cwd=ROOT, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 1 << 16):
            seen += piece
    except OSError:  # EIO: the command has closed its end
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0
    return seen

"""Nothing that a peer or a container chose reaches a terminal as anything but text."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from migrate.cli import console

ROOT = Path(__file__).resolve().parent.parent.parent
#: Ends the line, sets the title, moves about, colours in eight bits, clears, deletes, turns the direction, is no text.
EVIL = (
    "a\r\nmigrate: done\x1b]0;title\x07\x1b[2J\x1b[1A"
    "\x9b31m\x9d0;t\x9c\x08\x7f\x00\u202egnp\u2066\u2028\udcff[red]z"
)
SHOWN = (
    r"a\r\nmigrate: done\x1b]0;title\x07\x1b[2J\x1b[1A"
    r"\x9b31m\x9d0;t\x9c\x08\x7f\x00\u202egnp\u2066\u2028\udcff[red]z"
)
PROGRAM = """
import sys, time
from migrate.cli import console
from migrate.cli.progress import observer_for
from migrate.decisions.state import State
evil = sys.argv[1].encode().decode("unicode_escape")
with observer_for(sys.stderr) as observer:
    observer.phase("prepare")
    time.sleep(0.5)
    observer.note(evil)
    observer.state(State.ARMED)
    time.sleep(0.5)
console.say(evil)
console.put(evil)
"""


def test_one_line() -> None:
    assert console.one_line(EVIL) == SHOWN
    assert console.one_line("größe 漢字 🙂 plain") == "größe 漢字 🙂 plain"


def run_in_terminal(terminal: bool) -> bytes:
    """What the program's output and errors are, on a terminal or in a pipe."""
    argv = [sys.executable, "-c", PROGRAM, SHOWN]
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
    except OSError:  # EIO: the last of its other end was closed
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0
    return seen


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_what_is_shown(terminal: bool) -> None:
    seen = run_in_terminal(terminal)
    for told in (
        b"\x1b]0;",
        b"\x07",
        b"\x08",
        b"\x7f",
        b"\x00",
        b"\x1b[2J",
        "\x9b".encode(),
        "\u202e".encode(),
    ):
        assert told not in seen
    assert seen.count(SHOWN.encode()) == 3
    lines = seen.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    assert b"migrate: done" not in lines


def test_the_live_line_tells_what_goes_on() -> None:
    seen = run_in_terminal(terminal=True)
    assert 0 < seen.index(b"prepare") < seen.index(b"armed")

"""Tests of migrate/cli/console.py: hostile text reaches a terminal as nothing but text.

Hostile text is what a peer or a container chose.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from migrate.cli import console
from tests.unit.helpers.checkout import ROOT
from tests.unit.migrate.cli.terminal import SHOWN, run_in_terminal

#: A text that ends the line, sets the title, moves about, colours in eight bits, clears, deletes,
#: and turns the direction, with a byte that is no text.
EVIL = (
    "a\r\nmigrate: done\x1b]0;title\x07\x1b[2J\x1b[1A"
    "\x9b31m\x9d0;t\x9c\x08\x7f\x00\u202egnp\u2066\u2028\udcff[red]z"
)


def test_one_line_shows_control_characters_as_escapes() -> None:
    assert console.one_line(EVIL) == SHOWN
    assert console.one_line("größe 漢字 🙂 plain") == "größe 漢字 🙂 plain"


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_hostile_text_is_shown_and_does_nothing(terminal: bool) -> None:
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


#: Words of a shell for streams that are closed, or that no process reads any more.
CLOSED = [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "| true", "2>&1 | true"]


@pytest.mark.parametrize("streams", CLOSED)
@pytest.mark.parametrize(
    ("program", "words", "code"),
    [
        ("move", "x 'a b' --json", 2),
        ("move", "--help", 0),
        ("ctl", "--version", 0),
        ("ctl", "status", 0),
    ],
)
def test_streams_that_nobody_reads_change_no_exit_code(
    streams: str, program: str, words: str, code: int, tmp_path: Path
) -> None:
    """The code is the migration's, and Python prints no traceback and no complaint as it ends."""
    text = f"import sys; from migrate.cli.{program} import main; sys.exit(main())"
    script = f"exec 3>{tmp_path}/code; {{ sleep 0.3; {sys.executable} -c '{text}' {words};"
    script += f" echo $? >&3; }} {streams}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (tmp_path / "code").read_text().strip() == str(code)
    for output in (done.stdout, done.stderr):
        assert "Traceback" not in output
        assert "Exception ignored" not in output


def test_no_other_descriptor_takes_the_place_of_a_closed_stream() -> None:
    code = (
        "import os; from migrate.cli.console import open_standard_streams; open_standard_streams();"
        " print(os.open('/', 0) > 2, file=open('/dev/fd/9', 'w'))"
    )
    with subprocess.Popen(
        ["bash", "-c", f'exec 9>&1; exec {sys.executable} -c "{code}" <&- >&- 2>&-'],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    ) as done:
        assert done.communicate()[0] == b"True\n"

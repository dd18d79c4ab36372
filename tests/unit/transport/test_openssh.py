"""Tests of transport/openssh.py: the command line of ssh(1), and its process as a stream."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from transport.destination import Destination
from transport.errors import IncompleteFrame
from transport.openssh import SshProcess, command_line


def started(script: str) -> SshProcess:
    """Start a Python script in the place of ssh(1)."""
    argv = [sys.executable, "-c", script]
    return SshProcess(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("beta", ["--", "beta"]),
        ("root@beta", ["-l", "root", "--", "beta"]),
        ("ssh://me@beta:2222", ["-p", "2222", "-l", "me", "--", "beta"]),
        ("[fd00::2]:22", ["-p", "22", "--", "fd00::2"]),
    ],
)
def test_the_command_line_has_the_destination_as_the_user_wrote_it(
    text: str, where: list[str]
) -> None:
    line = list(command_line(Destination.parse(text), "run this"))
    assert line[0] == "ssh"
    assert line[-len(where) - 1 :] == [*where, "run this"]


def test_the_command_line_asks_nothing_and_trusts_no_new_key() -> None:
    line = command_line(Destination.parse("beta"), "true")
    assert {"-T", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes"} <= set(line)


def test_bytes_go_in_both_directions() -> None:
    stream = started("import os; os.write(1, os.read(0, 5))")
    stream.write(b"bytes")
    view = memoryview(bytearray(16))
    assert stream.read_into(view) == 5
    assert bytes(view[:5]) == b"bytes"
    assert stream.read_into(view) == 0, "it ended"
    stream.close()


def test_a_writer_is_told_of_the_end() -> None:
    stream = started("")
    assert stream.read_into(memoryview(bytearray(1))) == 0
    with pytest.raises(IncompleteFrame, match="ssh ended"):
        stream.write(bytes(1 << 22))
    stream.close()


def test_closing_wakes_a_writer() -> None:
    stream = started("import os, time; os.write(1, b'+'); time.sleep(60)")
    stream.read_into(memoryview(bytearray(1)))
    failures: list[Exception] = []

    def write() -> None:
        try:
            stream.write(bytes(1 << 24))
        except IncompleteFrame as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.1)  # the writer fills the pipe, and waits
    stream.close()
    writer.join(10)
    assert len(failures) == 1

"""Tests of checkpoint/engines/output_log.py: all output of a container, up to a bound.

Others may write to the log, or move it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from checkpoint.engines import output_log
from tests.rig import until

MOST = 100_000


def started(log: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-IS", output_log.__file__, str(log), str(MOST)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE)


def feed(writer: subprocess.Popen[bytes], data: bytes) -> None:
    assert writer.stdin is not None
    writer.stdin.write(data)
    writer.stdin.flush()


def end(writer: subprocess.Popen[bytes]) -> None:
    with writer:
        pass
    assert writer.returncode == 0


def test_every_byte_is_in_a_log_that_only_root_reads(tmp_path: Path) -> None:
    log, data = tmp_path / "c.log", os.urandom(MOST - 1)
    log.write_bytes(b"before")
    log.unlink()
    writer = started(log)
    feed(writer, data)
    end(writer)
    assert log.read_bytes() == data
    assert log.stat().st_mode & 0o777 == 0o600


def test_output_is_added_to_a_log_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "c.log").write_bytes(b"before")
    writer = started(tmp_path / "c.log")
    feed(writer, b" and after")
    end(writer)
    assert (tmp_path / "c.log").read_bytes() == b"before and after"


def test_the_log_is_bounded_and_the_last_output_kept(tmp_path: Path) -> None:
    writer = started(tmp_path / "c.log")
    lines = b"".join(b"%07d\n" % number for number in range(100_000))
    feed(writer, lines)
    end(writer)
    old, new = (tmp_path / "c.log.1").read_bytes(), (tmp_path / "c.log").read_bytes()
    assert lines.endswith(old + new)
    assert MOST <= len(old) + len(new) <= 2 * (MOST + output_log.PIECE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.log", "c.log.1"]


def test_two_writers_lose_nothing_of_the_last_output(tmp_path: Path) -> None:
    log = tmp_path / "c.log"
    writers = [started(log), started(log)]
    for number in range(60):
        for writer, letter in zip(writers, b"oe", strict=True):
            feed(writer, bytes([letter]) * 1000)
        until(partial(has_seen, tmp_path, 2000 * (number + 1)), "the logs to have it")
    for writer in writers:
        end(writer)
    text = (tmp_path / "c.log.1").read_bytes() + log.read_bytes()
    assert text.count(b"o") == text.count(b"e") == 60_000


def seen(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def has_seen(directory: Path, size: int) -> bool:
    return seen(directory) >= size


def test_a_log_that_was_moved_away_is_made_again_when_it_is_full(tmp_path: Path) -> None:
    log = tmp_path / "c.log"
    writer = started(log)
    feed(writer, bytes(MOST + 1))
    until(lambda: log.exists() and log.stat().st_size > MOST, "it to be full")
    log.rename(tmp_path / "taken")
    feed(writer, b"more")
    end(writer)
    assert log.read_bytes() == b"more"
    assert (tmp_path / "taken").stat().st_size == MOST + 1


def test_a_full_disk_does_not_end_the_writer(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(mounted)], check=True)
    try:
        writer = started(mounted / "c.log")
        feed(writer, bytes(1 << 20))
        end(writer)
        assert (mounted / "c.log").stat().st_size > 0
    finally:
        subprocess.run(["umount", str(mounted)], check=True)

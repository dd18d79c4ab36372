"""Tests of checkpoint/host/whole.py: all bytes, however few of them a system call moves."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint.errors import IncompleteIO
from checkpoint.host import whole

DATA = bytes(range(256)) * 40


def at_most(
    most: int, call: Callable[..., int], buffer_at: int, *, listed: bool
) -> Callable[..., int]:
    """Return a system call that moves so many bytes at most; Linux moves 0x7ffff000 at most."""

    def limited(*words: Any) -> int:
        given = list(words)
        buffer = given[buffer_at][0] if listed else given[buffer_at]
        given[buffer_at] = [buffer[:most]] if listed else buffer[:most]
        return call(*given)

    return limited


@pytest.fixture(params=[1, 7, 4096, 1 << 30])
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Have system calls move no more than so many bytes."""
    for name, listed in (("preadv", True), ("readv", True), ("write", False), ("pwrite", False)):
        monkeypatch.setattr(os, name, at_most(request.param, getattr(os, name), 1, listed=listed))
    return int(request.param)


@pytest.mark.usefixtures("limit")
def test_all_bytes_of_a_file_are_read_and_written(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    whole.write(fd, DATA)
    whole.pwrite(fd, DATA[::-1], 100)
    found = bytearray(len(DATA))
    whole.pread(fd, memoryview(found), 100)
    assert found == DATA[::-1]
    os.lseek(fd, 0, os.SEEK_SET)
    whole.read(fd, memoryview(found)[:100])
    assert found[:100] == DATA[:100]
    os.close(fd)


@pytest.mark.usefixtures("limit")
def test_all_bytes_of_a_stream_are_read_and_written() -> None:
    one, other = socket.socketpair()
    with one, other:
        writer = threading.Thread(target=whole.write, args=(one.fileno(), DATA))
        writer.start()
        found = bytearray(len(DATA))
        whole.read(other.fileno(), memoryview(found))
        writer.join()
    assert found == DATA


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"123")
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(IncompleteIO, match="2 bytes early, at offset 3"):
        whole.pread(fd, memoryview(bytearray(4)), 1)
    with pytest.raises(IncompleteIO, match="1 bytes early"):
        whole.read(fd, memoryview(bytearray(4)))
    os.close(fd)


def test_no_bytes_are_read_and_written_at_once(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    whole.write(fd, b"")
    whole.pread(fd, memoryview(b""), 5)
    whole.read(fd, memoryview(b""))
    assert os.fstat(fd).st_size == 0
    os.close(fd)

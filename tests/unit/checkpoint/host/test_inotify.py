"""Tests of checkpoint/host/inotify.py: events of the kernel, and events that it never sends."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

import pytest

from checkpoint.host.inotify import ClosedFiles, events_in


def event(name: bytes, size: int | None = None, mask: int = 8) -> bytes:
    return struct.pack("=iIII", 1, mask, 0, len(name) if size is None else size) + name


def test_files_are_named_as_they_are_closed(tmp_path: Path) -> None:
    names = ["plain", os.fsdecode(b"caf\xe9"), "new\nline", "x" * 255]
    with contextlib.closing(ClosedFiles(tmp_path)) as closed:
        assert list(closed.names()) == []
        for name in names:
            (tmp_path / name).write_text("x")
        assert list(closed.names()) == names


def test_events_are_read_with_their_names() -> None:
    assert list(events_in(event(b"a\0\0\0") + event(b"") + event(b"bc\0\0"))) == [
        (1, 8, "a"),
        (1, 8, ""),
        (1, 8, "bc"),
    ]
    assert list(events_in(b"")) == []


@pytest.mark.parametrize(
    "data", [b"x", event(b"")[:-1], event(b"abcd", 5), event(b"", 1 << 31), event(b"a") + b"x"]
)
def test_events_that_are_cut_off_are_refused(data: bytes) -> None:
    with pytest.raises(OSError, match="cut off"):
        list(events_in(data))

"""Tests of checkpoint/memory/tracking/inject.py, as the program that the tracker starts."""

from __future__ import annotations

import json
import os
import platform
import socket

import pytest

from checkpoint.memory.tracking import inject
from checkpoint.memory.tracking.inject import (
    NotHere,
)
from tests.unit.helpers.forked import forked
from tests.unit.helpers.obedient import Child


def told(monkeypatch: pytest.MonkeyPatch, pid: int) -> tuple[dict[str, object], list[int]]:
    """Return the words and the descriptors that the program sends for a process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr("sys.argv", ["inject.py", str(pid), str(theirs.fileno())])
    with ours, theirs:
        forked(inject.main)
        data, fds, _, _ = socket.recv_fds(ours, 4096, 2)
    return json.loads(data), list(fds)


def test_the_program_sends_a_descriptor(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    words, fds = told(monkeypatch, child.pid)
    assert words.keys() == {"stopped_us"}
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in fds] == ["anon_inode:[userfaultfd]"]
    for fd in fds:
        os.close(fd)


def test_the_program_says_what_went_wrong(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    child.end()
    words, fds = told(monkeypatch, child.pid)
    assert "No such process" in str(words["error"])
    assert fds == []


def test_another_architecture_is_told(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert told(monkeypatch, child.pid) == ({"error": "not supported on aarch64"}, [])


@pytest.mark.parametrize("bad", [0, 3, inject.ATTEMPTS - 1, inject.ATTEMPTS])
def test_a_wrong_moment_is_tried_again(
    child: Child, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    plain, moments = inject.userfaultfd_of, [NotHere("wrong moment")] * bad

    def altered(pid: int) -> tuple[int, int]:
        if moments:
            raise moments.pop()
        return plain(pid)

    monkeypatch.setattr(inject, "userfaultfd_of", altered)
    words, fds = told(monkeypatch, child.pid)
    assert words.get("error") == ("wrong moment" if bad == inject.ATTEMPTS else None)
    for fd in fds:
        os.close(fd)

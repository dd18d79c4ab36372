"""Tests of checkpoint/host/ready.py: which descriptors can be read."""

from __future__ import annotations

import fcntl
import os
import resource

from checkpoint.host.ready import ready


def test_descriptors_with_bytes_or_an_end_are_ready() -> None:
    silent, speaking, ended = os.pipe(), os.pipe(), os.pipe()
    os.write(speaking[1], b"x")
    os.close(ended[1])
    try:
        assert ready(silent[0], timeout_s=0) == []
        assert set(ready(silent[0], speaking[0], ended[0])) == {speaking[0], ended[0]}
    finally:
        for fd in (*silent, *speaking, ended[0]):
            os.close(fd)


def test_a_descriptor_beyond_those_of_select_can_be_ready() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most[0] <= 1100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1200, most[1]))
    reader, writer = os.pipe()
    high = fcntl.fcntl(reader, fcntl.F_DUPFD, 1100)
    try:
        os.write(writer, b"x")
        assert ready(high, timeout_s=0) == [high]
    finally:
        for fd in (reader, writer, high):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, most)

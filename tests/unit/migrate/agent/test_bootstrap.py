"""Tests of migrate/agent/bootstrap.py: the program that receives the agent, as sshd starts it."""

from __future__ import annotations

import resource
import shlex
import subprocess
import sys
import time

import pytest

from migrate.agent import zipapp

#: The words of the command behind `exec python3`.
PROGRAM = shlex.split(zipapp.command())[2:]


def received(data: bytes) -> subprocess.CompletedProcess[bytes]:
    """Return how the program ends that is sent `data` and has 128 MiB of memory."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (128 << 20, 128 << 20))

    argv = [sys.executable, *PROGRAM]
    return subprocess.run(
        argv, input=data, capture_output=True, timeout=30, check=False, preexec_fn=bound
    )


@pytest.mark.parametrize("size", [zipapp.MOST_BYTES + 1, 1 << 31, (1 << 32) - 1])
def test_a_size_over_the_bound_is_refused_before_anything_is_read(size: int) -> None:
    done = received(size.to_bytes(4, "big") + bytes(1 << 20))
    assert done.returncode == 1
    assert done.stderr.startswith(b"migrate agent: "), done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("data", [b"", b"\0\0", (1000).to_bytes(4, "big") + bytes(999)])
def test_an_agent_that_is_cut_off_is_told_as_such(data: bytes) -> None:
    done = received(data)
    assert done.returncode == 1
    assert done.stderr == b"migrate agent: the connection ended while it was sent\n"


def test_an_agent_that_comes_in_small_pieces_takes_linear_time() -> None:
    """Each read brings a few bytes, and no read may copy what came before."""
    size = zipapp.MOST_BYTES
    argv = [sys.executable, *PROGRAM]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin
        assert process.stderr
        began = time.monotonic()
        process.stdin.write(size.to_bytes(4, "big"))
        for _ in range(0, size, 256):
            process.stdin.write(bytes(256))
        process.stdin.close()
        said = process.stderr.read()
    assert b"No module named 'migrate'" in said
    assert time.monotonic() - began < 20

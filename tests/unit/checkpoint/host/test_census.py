"""Tests of checkpoint/host/census.py, by programs that have many of one thing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from checkpoint.host import processes
from checkpoint.host.census import Census, census, private_bytes
from tests.rig.clients import program_command
from tests.rig.wait import until

MIB = 1 << 20


@contextmanager
def crowd(*words: str) -> Iterator[tuple[int, int]]:
    """Run a crowd, and yield its pid and its port."""
    argv = [*program_command("crowd.py"), "--port", "0", "--host", "127.0.0.1", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline().split()[1])
        finally:
            for pid in processes.tree_of(process.pid):  # all, while it is still their parent
                os.kill(pid, 9)


def counted(*words: str) -> Census:
    with crowd(*words) as (pid, _):
        return census(pid, processes.tree_of(pid))


@pytest.mark.parametrize(
    ("words", "item", "count"),
    [
        (["--processes", "5"], "processes", 5),
        (["--threads", "20"], "threads", 20),
        (["--descriptors", "300"], "descriptors", 300),
        (["--mappings", "400"], "mappings", 400),
        (["--shared-mib", "3"], "shared_bytes", 3 * MIB),
        # Shared memory is there once, however many processes have it.
        (["--shared-mib", "3", "--processes", "3"], "shared_bytes", 3 * MIB),
    ],
)
def test_every_item_is_counted(words: list[str], item: str, count: int) -> None:
    alone = getattr(counted(), item)
    # Threads bring mappings, and an allocator may bring one more.
    assert 0 <= getattr(counted(*words), item) - alone - count <= 3


def test_connections_are_counted_and_listeners_are_not() -> None:
    with crowd() as (pid, port):
        before = census(pid, [pid]).connections
        argv = [*program_command("idle_clients.py"), "127.0.0.1", str(port), "--count", "40"]
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as idle:
            assert idle.stdout is not None
            assert idle.stdout.readline() == "READY\n"
            # Both ends are in this network namespace, where others come and go.
            until(lambda: census(pid, [pid]).connections >= before + 70, "80 connections")
            idle.communicate("")


def test_private_memory_is_that_without_a_file() -> None:
    with crowd("--private-mib", "30", "--shared-mib", "50") as (pid, _):
        assert 30 * MIB <= private_bytes([pid]) < 60 * MIB


def test_a_process_that_is_gone_counts_for_nothing() -> None:
    with crowd() as (pid, _):
        pass
    assert census(pid, [pid]) == Census(
        processes=1,
        threads=0,
        descriptors=0,
        connections=0,
        mappings=0,
        shared_bytes=0,
    )
    assert private_bytes([pid]) == 0

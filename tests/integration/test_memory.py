"""What is in memory when a container is frozen is in memory when it goes on: every byte, or it goes on where it was."""

import json
import random
import struct
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.clients import status
from tests.integration.conftest import WORKLOADS, Hosts, new_traces, tool_command, traces, without
from tests.rig import Container, until

ADDRESS = "10.77.0.62"
CHURN_PORT, DIRTIER_PORT = 7107, 7106
PAGE_BYTES = 4096


def start(hosts: Hosts, name: str, *words: str) -> Container:
    argv = ["python3", "-B", f"{WORKLOADS}/{name}.py", *words]
    return hosts.alpha.start_container(name, ip=ADDRESS, argv=argv)


def verdict(hosts: Hosts, port: int) -> Mapping[str, Any]:
    found = status(hosts.rig.switch, ADDRESS, port)
    assert found["ok"], found
    return found


def test_every_byte_of_changing_memory_is_as_it_was(hosts: Hosts, moves: int) -> None:
    """Private, shared and file-backed memory that is written, mapped, unmapped, grown, given back, and forked."""
    churn = start(hosts, "churn", "--mib", "256")
    before = verdict(hosts, CHURN_PORT)
    for _ in range(moves):
        churn, report = hosts.move(churn, churn.node)
        assert report["mode"] == "pre-copy"
        assert report["memory_bytes"] > 256 << 20
        arrived = verdict(hosts, CHURN_PORT)
        assert all(
            arrived[kind] > before[kind] for kind in ("writes", "maps", "growths", "drops", "forks")
        )
        before = arrived


def test_no_more_is_sent_than_was_written(hosts: Hosts) -> None:
    """At most 1.15 times the memory and what was written to it meanwhile, uncompressed."""
    start(hosts, "dirtier", "--mib", "128", "--hot-mib", "16", "--mb-per-second", "10")
    before = verdict(hosts, DIRTIER_PORT)
    done = hosts.migrate_with("faulty_pages", "uncompressed", "0", "dirtier", "beta", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    written = (verdict(hosts, DIRTIER_PORT)["writes"] - before["writes"]) * PAGE_BYTES
    sent = report["bytes_sent"]["pages"]
    assert 128 << 20 < sent <= 1.15 * (report["memory_bytes"] + written)
    assert sent <= 1.15 * report["page_bytes"]


@pytest.mark.parametrize("fault", ["lost", "damaged", "twice"])
def test_a_batch_that_goes_wrong_is_never_restored(hosts: Hosts, fault: str) -> None:
    start(hosts, "dirtier", "--mib", "32")
    before = {node.name: traces(node) for node in (hosts.alpha, hosts.beta)}
    writes = verdict(hosts, DIRTIER_PORT)["writes"]
    number = random.randrange(30)  # noqa: S311 - which one does not matter
    done = hosts.migrate_with("faulty_pages", fault, str(number), "dirtier", "beta", "--json")
    assert done.returncode == CODES[errors.RolledBack], (number, done.stderr)
    assert "batch" in json.loads(done.stdout)["error"], done.stdout
    until(lambda: verdict(hosts, DIRTIER_PORT)["writes"] > writes, "the dirtier to write on")
    assert [new_traces(before[node.name], traces(node)) for node in (hosts.alpha, hosts.beta)] == [
        {},
        {},
    ]


def test_the_fault_is_what_fails(hosts: Hosts) -> None:
    """The same without a fault is a move that succeeds."""
    start(hosts, "dirtier", "--mib", "32")
    done = hosts.migrate_with("faulty_pages", "none", "0", "dirtier", "beta", "--json")
    assert done.returncode == 0, done.stderr
    verdict(hosts, DIRTIER_PORT)


@pytest.mark.parametrize(
    ("mode", "used"), [("auto", "pre-copy"), ("pre-copy", "pre-copy"), ("stop-copy", "stop-copy")]
)
def test_each_mode_moves_the_same_memory(hosts: Hosts, mode: str, used: str) -> None:
    start(hosts, "dirtier", "--mib", "32", "--mb-per-second", "1")
    verdict(hosts, DIRTIER_PORT)
    done = hosts.migrate(hosts.alpha, "dirtier", "beta", "--mode", mode, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["mode"] == used
    assert report["notes"][0].startswith(f"{used}")
    verdict(hosts, DIRTIER_PORT)
    assert report["page_bytes"] > 32 << 20
    if used == "stop-copy":
        assert report["rounds"] == 0
    else:
        assert report["frozen_bytes_sent"] < 16 << 20


# In place of ssh(1), which is kept beside it.
NO_CONNECTION = """#!/bin/sh
[ "$1" = -G ] && exec /usr/bin/ssh.kept "$@"
exit 255
"""


def test_pages_go_over_the_connection_that_is_there(hosts: Hosts) -> None:
    """Where ssh(1) does not get in, and tells its settings all the same."""
    start(hosts, "dirtier", "--mib", "32")
    verdict(hosts, DIRTIER_PORT)
    with without(hosts.alpha, "/usr/bin/ssh", NO_CONNECTION):
        done = hosts.migrate(hosts.alpha, "dirtier", "beta", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mode"] == "pre-copy"
    verdict(hosts, DIRTIER_PORT)


def test_memory_that_another_userfaultfd_watches(hosts: Hosts) -> None:
    """It is copied while frozen, and that is said."""
    dirtier = start(hosts, "dirtier", "--mib", "32")
    verdict(hosts, DIRTIER_PORT)
    watcher = hosts.alpha.popen(tool_command("watch", str(dirtier.pid)), stdout=subprocess.PIPE)
    try:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "watching\n"
        refused = hosts.migrate(hosts.alpha, "dirtier", "beta", "--mode", "pre-copy")
        assert refused.returncode == CODES[errors.CannotTrack], refused.stderr
        done = hosts.migrate(hosts.alpha, "dirtier", "beta", "--json")
    finally:
        watcher.kill()
        watcher.communicate()
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["mode"] == "stop-copy"
    assert [note for note in report["notes"] if "watched by another userfaultfd" in note], report[
        "notes"
    ]
    verdict(hosts, DIRTIER_PORT)


# ELF for i386 that calls pause(2) for ever: mov eax, 29; int 0x80; jmp back.
CODE_32 = bytes.fromhex("b81d000000 cd80 ebf7")
BASE_32 = 0x08048000
ELF_32 = (
    b"\x7fELF\x01\x01\x01"
    + bytes(9)
    + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, BASE_32 + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    + struct.pack("<8I", 1, 0, BASE_32, BASE_32, 84 + len(CODE_32), 84 + len(CODE_32), 5, 0x1000)
    + CODE_32
)
BECOME_32 = f"""
import os
with open("/tmp/paused", "wb") as program:
    program.write(bytes.fromhex("{ELF_32.hex()}"))
os.chmod("/tmp/paused", 0o755)
os.execv("/tmp/paused", ["paused"])
"""


def test_a_32_bit_program(hosts: Hosts) -> None:
    paused = hosts.alpha.start_container("paused", ip=ADDRESS, argv=["python3", "-c", BECOME_32])
    until(
        lambda: hosts.alpha.run(["readlink", f"/proc/{paused.pid}/exe"]).stdout == "/tmp/paused\n",  # noqa: S108
        "exec",
    )
    moved, report = hosts.move(paused, hosts.alpha)
    assert report["mode"] == "stop-copy"
    assert [note for note in report["notes"] if "runs 32-bit code" in note], report["notes"]
    assert moved.status == "running"


def test_a_stack_pointer_at_the_start_of_a_page(hosts: Hosts) -> None:
    """CRIU then takes all memory for stack (criu/mem.c, is_stack). It goes ahead and is filled in all the same."""
    start(hosts, "dirtier", "--mib", "32", "--aligned-stack")
    before = verdict(hosts, DIRTIER_PORT)
    done = hosts.migrate(hosts.alpha, "dirtier", "beta", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["frozen_bytes_sent"] < 16 << 20
    assert report["fill"]["bytes"] > 32 << 20
    assert verdict(hosts, DIRTIER_PORT)["writes"] > before["writes"]


def test_a_bandwidth_limit(hosts: Hosts) -> None:
    """The limit itself is measured by scripts/bench; here that it is obeyed at all, and not in the freeze."""
    start(hosts, "dirtier", "--mib", "32", "--mb-per-second", "0")
    verdict(hosts, DIRTIER_PORT)
    done = hosts.migrate(hosts.alpha, "dirtier", "beta", "--bandwidth-limit", "10M", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (pre_copy,) = (phase for phase in report["phases"] if phase["name"] == "pre-copy")
    assert pre_copy["length_us"] >= report["bytes_sent"]["pages"] / 10 * 0.8
    verdict(hosts, DIRTIER_PORT)

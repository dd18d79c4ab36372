"""Every byte that is in memory at the freeze is in memory when the container goes on.

If a byte is lost, the container goes on on the source.
"""

import json
import random
import struct
import subprocess

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.rig import until
from tests.rig.hosts import Hosts, tool_command
from tests.rig.without import Without
from tests.rig.workload import ADDRESS

PAGE_BYTES = 4096


def test_every_byte_of_changing_memory_is_as_it_was(hosts: Hosts, moves: int) -> None:
    """Memory that is written, mapped, unmapped, grown, given back, and forked, of every kind."""
    churn = hosts.start("churn", "--mib", "256")
    before = churn.verdict()
    for _ in range(moves):
        churn, report = hosts.move(churn)
        assert report["mode"] == "pre-copy"
        assert report["memory_bytes"] > 256 << 20
        arrived = churn.verdict()
        counters = ("writes", "maps", "growths", "drops", "forks")
        assert all(arrived[counter] > before[counter] for counter in counters)
        before = arrived


def test_no_more_is_sent_than_was_written(hosts: Hosts) -> None:
    """The pages sent are at most 1.15 times the memory and what was written to it meanwhile.

    They are sent uncompressed here.
    """
    dirtier = hosts.start("dirtier", "--mib", "128", "--hot-mib", "16", "--mb-per-second", "10")
    before = dirtier.verdict()
    done = hosts.migrate_with("faulty_pages", "uncompressed", "0", "dirtier", "beta", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    written = (dirtier.verdict()["writes"] - before["writes"]) * PAGE_BYTES
    sent = report["bytes_sent"]["pages"]
    assert 128 << 20 < sent <= 1.15 * (report["memory_bytes"] + written)
    assert sent <= 1.15 * report["page_bytes"]


@pytest.mark.parametrize("fault", ["lost", "damaged", "twice"])
def test_a_batch_that_goes_wrong_is_never_restored(hosts: Hosts, fault: str) -> None:
    dirtier = hosts.start("dirtier", "--mib", "32")
    before = hosts.traces()
    number = random.randrange(30)  # noqa: S311 - which one does not matter
    done = hosts.migrate_with("faulty_pages", fault, str(number), "dirtier", "beta", "--json")
    assert done.returncode == CODES[errors.RolledBack], (number, done.stderr)
    assert "batch" in json.loads(done.stdout)["error"], done.stdout
    dirtier.goes_on("writes")
    assert hosts.new_traces(before) == {}


def test_the_fault_is_what_fails(hosts: Hosts) -> None:
    """A move without the fault, by the same program, succeeds."""
    dirtier = hosts.start("dirtier", "--mib", "32")
    done = hosts.migrate_with("faulty_pages", "none", "0", "dirtier", "beta", "--json")
    assert done.returncode == 0, done.stderr
    dirtier.verdict()


@pytest.mark.parametrize(
    ("mode", "used"), [("auto", "pre-copy"), ("pre-copy", "pre-copy"), ("stop-copy", "stop-copy")]
)
def test_each_mode_moves_the_same_memory(hosts: Hosts, mode: str, used: str) -> None:
    dirtier = hosts.start("dirtier", "--mib", "32", "--mb-per-second", "1")
    dirtier.verdict()
    dirtier, report = hosts.move(dirtier, "--mode", mode)
    assert report["mode"] == used
    assert any(note.startswith(used) for note in report["notes"])
    dirtier.verdict()
    assert report["page_bytes"] > 32 << 20
    if used == "stop-copy":
        assert report["rounds"] == 0
    else:
        assert report["frozen_bytes_sent"] < 16 << 20


#: In place of ssh(1): it tells its settings, and gets in nowhere.
NO_CONNECTION = """#!/bin/sh
[ "$1" = -G ] && exec /usr/bin/ssh.kept "$@"
exit 255
"""


def test_pages_go_over_the_connection_that_is_there(hosts: Hosts) -> None:
    """ssh(1) does not get in; the tool's own connection carries the pages."""
    dirtier = hosts.start("dirtier", "--mib", "32")
    dirtier.verdict()
    with Without(hosts.alpha, "/usr/bin/ssh", NO_CONNECTION):
        dirtier, report = hosts.move(dirtier)
    assert report["mode"] == "pre-copy"
    dirtier.verdict()


def test_memory_that_another_userfaultfd_watches_moves_in_the_freeze(hosts: Hosts) -> None:
    """The move copies such memory while it is frozen, and the report says so."""
    dirtier = hosts.start("dirtier", "--mib", "32")
    dirtier.verdict()
    watch = tool_command("watch", str(dirtier.container.pid))
    watcher = hosts.alpha.popen(watch, stdout=subprocess.PIPE)
    try:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "watching\n"
        refused = hosts.migrate(hosts.alpha, "dirtier", "beta", "--mode", "pre-copy")
        assert refused.returncode == CODES[errors.CannotTrack], refused.stderr
        dirtier, report = hosts.move(dirtier)
    finally:
        watcher.kill()
        watcher.communicate()
    assert report["mode"] == "stop-copy"
    notes = report["notes"]
    assert [note for note in notes if "watched by another userfaultfd" in note], notes
    dirtier.verdict()


# An ELF file for i386 that calls pause(2) for ever: mov eax, 29; int 0x80; jmp back.
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


def test_a_32_bit_program_moves_in_the_freeze(hosts: Hosts) -> None:
    paused = hosts.alpha.start_container("paused", ip=ADDRESS, argv=["python3", "-c", BECOME_32])
    look = ["readlink", f"/proc/{paused.pid}/exe"]
    until(lambda: hosts.alpha.run(look).stdout == "/tmp/paused\n", "exec")  # noqa: S108
    paused, report = hosts.move(paused)
    assert report["mode"] == "stop-copy"
    assert [note for note in report["notes"] if "runs 32-bit code" in note], report["notes"]
    assert paused.status == "running"


def test_memory_that_criu_takes_for_stack_stays_out_of_the_freeze(hosts: Hosts) -> None:
    """CRIU then takes all memory for stack (criu/mem.c, is_stack).

    The memory goes ahead of the freeze and is filled in afterwards all the same.
    """
    dirtier = hosts.start("dirtier", "--mib", "32", "--aligned-stack")
    before = dirtier.verdict()
    dirtier, report = hosts.move(dirtier)
    assert report["frozen_bytes_sent"] < 16 << 20
    assert report["fill"]["bytes"] > 32 << 20
    assert dirtier.verdict()["writes"] > before["writes"]


def test_a_bandwidth_limit_is_obeyed(hosts: Hosts) -> None:
    """The limit is obeyed, and not in the freeze. scripts/bench measures how closely."""
    dirtier = hosts.start("dirtier", "--mib", "32", "--mb-per-second", "0")
    dirtier.verdict()
    dirtier, report = hosts.move(dirtier, "--bandwidth-limit", "10M")
    (pre_copy,) = (phase for phase in report["phases"] if phase["name"] == "pre-copy")
    assert pre_copy["length_us"] >= report["bytes_sent"]["pages"] / 10 * 0.8
    dirtier.verdict()

"""Pre-copy by CRIU's own pre-dumps, on a kernel that tracks soft-dirty pages."""

import json
import signal
import subprocess

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.rig import Container, Workload, until
from tests.rig.hosts import Hosts, Report, tool_command

MOVE_TIMEOUT_S = 90.0
PAGE_BYTES = 4096
#: A dirtier that writes 1 MB/s.
SLOWLY = ["--mb-per-second", "1"]


def without_userfaultfd(fault: str = "none", number: int = 0) -> list[str]:
    """Return the command of the tool where userfaultfd does not track writes."""
    return tool_command("without_userfaultfd", fault, str(number))


def move(
    hosts: Hosts, workload: Workload[Container], tool: list[str]
) -> tuple[Workload[Container], Report]:
    """Move a workload to the other host by that command, and return it there and the report."""
    target = hosts.other(workload.node)
    argv = [*tool, workload.name, target.name, "--json"]
    done = workload.node.run(argv, check=False, timeout=MOVE_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return workload.on(target), json.loads(done.stdout)


def test_every_byte_of_changing_memory_is_as_it_was(hosts: Hosts, moves: int) -> None:
    """Memory that a child shares with its parent is sent for each; here children live long."""
    churn = hosts.start("churn", "--mib", "256", *SLOWLY, "--fork-every", "20")
    before = churn.verdict()
    for _ in range(moves):
        churn, report = move(hosts, churn, without_userfaultfd())
        assert report["notes"][0].startswith("pre-copy by soft-dirty pages")
        assert report["memory_bytes"] > 256 << 20
        assert report["pages_skipped_parent"] > 0
        arrived = churn.verdict()
        counters = ("writes", "maps", "growths", "drops", "forks")
        assert all(arrived[counter] > before[counter] for counter in counters)
        before = arrived


@pytest.fixture
def dirtier(hosts: Hosts) -> Workload[Container]:
    """A container with 64 MiB, of which one is written slowly."""
    return hosts.start("dirtier", "--mib", "64", "--hot-mib", "1", *SLOWLY)


def test_memory_that_did_not_change_stays_out_of_the_freeze(
    hosts: Hosts, dirtier: Workload[Container]
) -> None:
    dirtier.verdict()
    dirtier, report = move(hosts, dirtier, without_userfaultfd())
    assert report["pages_skipped_parent"] > (63 << 20) // PAGE_BYTES
    assert report["frozen_bytes_sent"] < 8 << 20
    dirtier.verdict()


def test_where_userfaultfd_is_used_the_last_dump_takes_what_went_ahead_for_sent(
    hosts: Hosts, dirtier: Workload[Container]
) -> None:
    """CRIU takes every page for a written one until somebody has the kernel forget that."""
    dirtier.verdict()
    dirtier, report = move(hosts, dirtier, ["migrate"])
    assert report["notes"][0].startswith("pre-copy: writes are seen by userfaultfd")
    assert report["pages_skipped_parent"] > (62 << 20) // PAGE_BYTES
    assert report["frozen_bytes_sent"] < 8 << 20
    dirtier.verdict()


def test_soft_dirty_pages_take_over_where_userfaultfd_does_not_reach(hosts: Hosts) -> None:
    dirtier = hosts.start("dirtier", "--mib", "32", *SLOWLY, "--direct-io")
    dirtier.verdict()
    dirtier, report = move(hosts, dirtier, ["migrate"])
    assert report["mode"] == "pre-copy"
    assert [note for note in report["notes"] if note.startswith("pre-copy by soft-dirty pages: ")]
    assert report["pages_skipped_parent"] > 0
    dirtier.verdict()


def test_shared_memory_goes_once_and_in_the_freeze(hosts: Hosts) -> None:
    dirtier = hosts.start("dirtier", "--mib", "32", *SLOWLY, "--kind", "shared")
    dirtier.verdict()
    dirtier, report = move(hosts, dirtier, without_userfaultfd())
    assert report["page_bytes"] < 64 << 20
    assert report["frozen_bytes_sent"] > 32 << 20
    dirtier.verdict()


def test_a_batch_that_is_lost_is_never_restored(hosts: Hosts) -> None:
    dirtier = hosts.start("dirtier", "--mib", "32", *SLOWLY)
    before = hosts.traces()
    command = [*without_userfaultfd("lost", 2), "dirtier", "beta", "--json"]
    done = hosts.alpha.run(command, check=False, timeout=MOVE_TIMEOUT_S)
    assert done.returncode == CODES[errors.RolledBack], done.stderr
    assert "batch" in json.loads(done.stdout)["error"], done.stdout
    dirtier.goes_on("writes")
    assert hosts.new_traces(before) == {}


def test_a_signal_in_a_pre_dump_leaves_the_container_alone(hosts: Hosts) -> None:
    """CRIU holds the container's processes then, with its code in them."""
    dirtier = hosts.start("dirtier", "--mib", "64", *SLOWLY)
    before = hosts.traces()
    command = [*without_userfaultfd(), "dirtier", "beta"]
    move = hosts.alpha.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert move.stderr is not None
    next(line for line in move.stderr if "armed" in line)
    criu = ["pgrep", "-f", "criu swrk"]
    until(lambda: hosts.alpha.run(criu, check=False).stdout.count("\n") > 1, "CRIU")
    hosts.alpha.run(["pkill", "-TERM", "-f", "dirtier beta$"])
    move.communicate(timeout=MOVE_TIMEOUT_S)
    assert move.returncode == 128 + signal.SIGTERM
    dirtier.goes_on("writes")
    assert hosts.new_traces(before) == {}

"""Pre-copy by CRIU's own pre-dumps, on a kernel that tracks soft-dirty pages: memory arrives as it was."""

import json
import signal
import subprocess

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.clients import status
from tests.integration.conftest import WORKLOADS, Hosts, new_traces, tool_command, traces
from tests.rig import Container, Node, until

ADDRESS = "10.77.0.62"
CHURN_PORT, DIRTIER_PORT = 7107, 7106
MOVE_TIMEOUT_S = 900.0


def tool(fault: str = "none", number: int = 0) -> list[str]:
    return tool_command("without_userfaultfd", fault, str(number))


def verdict(hosts: Hosts, port: int) -> dict[str, int]:
    found = status(hosts.rig.switch, ADDRESS, port)
    assert found["ok"], found
    return dict(found)


def start(hosts: Hosts, name: str, *words: str) -> Container:
    argv = ["python3", "-B", f"{WORKLOADS}/{name}.py", *words]
    return hosts.alpha.start_container(name, ip=ADDRESS, argv=argv)


def test_every_byte_of_changing_memory_is_as_it_was(hosts: Hosts, moves: int) -> None:
    # What a child shares with its parent is sent for each of them, and here children live long.
    churn = start(hosts, "churn", "--mib", "256", "--mb-per-second", "1", "--fork-every", "20")
    source: Node = hosts.alpha
    before = verdict(hosts, CHURN_PORT)
    for _ in range(moves):
        target = hosts.other(source)
        done = source.run(
            [*tool(), churn.name, target.name, "--json"], check=False, timeout=MOVE_TIMEOUT_S
        )
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["notes"][0].startswith("pre-copy by soft-dirty pages")
        assert report["memory_bytes"] > 256 << 20
        assert report["pages_skipped_parent"] > 0
        arrived = verdict(hosts, CHURN_PORT)
        assert all(
            arrived[kind] > before[kind] for kind in ("writes", "maps", "growths", "drops", "forks")
        )
        source, before = target, arrived


def test_memory_that_did_not_change_stays_out_of_the_freeze(hosts: Hosts) -> None:
    start(hosts, "dirtier", "--mib", "64", "--hot-mib", "1", "--mb-per-second", "1")
    verdict(hosts, DIRTIER_PORT)
    command = [*tool(), "dirtier", "beta", "--json"]
    report = json.loads(hosts.alpha.run(command, timeout=MOVE_TIMEOUT_S).stdout)
    assert report["pages_skipped_parent"] > (63 << 20) // 4096
    assert report["frozen_bytes_sent"] < 8 << 20
    verdict(hosts, DIRTIER_PORT)


def test_where_userfaultfd_is_used_the_last_dump_takes_what_went_ahead_for_sent(
    hosts: Hosts,
) -> None:
    """To CRIU every page is a written one until somebody has the kernel forget that."""
    start(hosts, "dirtier", "--mib", "64", "--hot-mib", "1", "--mb-per-second", "1")
    verdict(hosts, DIRTIER_PORT)
    report = json.loads(
        hosts.alpha.run(["migrate", "dirtier", "beta", "--json"], timeout=MOVE_TIMEOUT_S).stdout
    )
    assert report["notes"][0].startswith("pre-copy: writes are seen by userfaultfd")
    assert report["pages_skipped_parent"] > (62 << 20) // 4096
    assert report["frozen_bytes_sent"] < 8 << 20
    verdict(hosts, DIRTIER_PORT)


def test_it_takes_over_where_userfaultfd_does_not_reach(hosts: Hosts) -> None:
    start(hosts, "dirtier", "--mib", "32", "--mb-per-second", "1", "--direct-io")
    verdict(hosts, DIRTIER_PORT)
    report = json.loads(
        hosts.alpha.run(["migrate", "dirtier", "beta", "--json"], timeout=MOVE_TIMEOUT_S).stdout
    )
    assert report["mode"] == "pre-copy"
    assert [note for note in report["notes"] if note.startswith("pre-copy by soft-dirty pages: ")]
    assert report["pages_skipped_parent"] > 0
    verdict(hosts, DIRTIER_PORT)


def test_shared_memory_goes_once_and_in_the_freeze(hosts: Hosts) -> None:
    start(hosts, "dirtier", "--mib", "32", "--mb-per-second", "1", "--kind", "shared")
    verdict(hosts, DIRTIER_PORT)
    command = [*tool(), "dirtier", "beta", "--json"]
    report = json.loads(hosts.alpha.run(command, timeout=MOVE_TIMEOUT_S).stdout)
    assert report["page_bytes"] < 64 << 20
    assert report["frozen_bytes_sent"] > 32 << 20
    verdict(hosts, DIRTIER_PORT)


def runs_on(hosts: Hosts, before: dict[str, int]) -> None:
    until(
        lambda: verdict(hosts, DIRTIER_PORT)["writes"] > before["writes"], "the dirtier to write on"
    )


def test_a_batch_that_is_lost_is_never_restored(hosts: Hosts) -> None:
    start(hosts, "dirtier", "--mib", "32", "--mb-per-second", "1")
    left = {node.name: traces(node) for node in (hosts.alpha, hosts.beta)}
    before = verdict(hosts, DIRTIER_PORT)
    command = [*tool("lost", 2), "dirtier", "beta", "--json"]
    done = hosts.alpha.run(command, check=False, timeout=MOVE_TIMEOUT_S)
    assert done.returncode == CODES[errors.RolledBack], done.stderr
    assert "batch" in json.loads(done.stdout)["error"], done.stdout
    runs_on(hosts, before)
    assert [new_traces(left[node.name], traces(node)) for node in (hosts.alpha, hosts.beta)] == [
        {},
        {},
    ]


def test_a_signal_in_a_pre_dump(hosts: Hosts) -> None:
    """CRIU holds the container's processes then, with its code in them."""
    start(hosts, "dirtier", "--mib", "64", "--mb-per-second", "1")
    left = {node.name: traces(node) for node in (hosts.alpha, hosts.beta)}
    before = verdict(hosts, DIRTIER_PORT)
    move = hosts.alpha.popen(
        [*tool(), "dirtier", "beta"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert move.stderr is not None
    next(line for line in move.stderr if "armed" in line)
    until(
        lambda: hosts.alpha.run(["pgrep", "-f", "criu swrk"], check=False).stdout.count("\n") > 1,
        "CRIU",
    )
    hosts.alpha.run(["pkill", "-TERM", "-f", "dirtier beta$"])
    move.communicate(timeout=MOVE_TIMEOUT_S)
    assert move.returncode == 128 + signal.SIGTERM
    runs_on(hosts, before)
    assert [new_traces(left[node.name], traces(node)) for node in (hosts.alpha, hosts.beta)] == [
        {},
        {},
    ]

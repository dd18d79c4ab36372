"""The interposer, with the CRIU that the nodes have."""

import re

from tests.integration.conftest import Hosts
from tests.rig import Node, Rig


def test_the_contract_holds_on_the_real_criu(rig: Rig) -> None:
    suite = [
        "python3",
        "-m",
        "pytest",
        "-q",
        "/opt/migrate/tests/contract",
        "--real-criu",
        "-p",
        "no:cacheprovider",
    ]
    done = rig.node("alpha").run(
        ["env", "PYTHONDONTWRITEBYTECODE=1", *suite, "-k", "real"], check=False, timeout=300
    )
    passed = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout[-4000:]
    assert passed is not None
    assert int(passed[1]) > 30
    assert "skipped" not in done.stdout


def taken_for_tracking(node: Node) -> tuple[bool, str]:
    """Whether CRIU takes the kernel for one that tracks memory; and all it remembers of it."""
    done = node.run(["criu", "check", "--feature", "mem_dirty_track"], check=False)
    return done.returncode == 0, node.run(["sha256sum", "/run/criu.kdat"]).stdout


def test_nobody_but_our_criu_is_told_that_memory_is_tracked(hosts: Hosts) -> None:
    before = taken_for_tracking(hosts.alpha)
    argv = ["python3", "-B", "/opt/migrate/tests/workloads/dirtier.py", "--mib", "16"]
    container = hosts.alpha.start_container("dirtier", ip="10.77.0.62", argv=argv)
    _, report = hosts.move(container, hosts.alpha)
    assert report["pages_skipped_parent"] >= (16 << 20) // 4096, "it was"
    assert taken_for_tracking(hosts.alpha) == before

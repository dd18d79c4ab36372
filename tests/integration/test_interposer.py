"""The interposer, with the CRIU that the nodes have."""

import re

from tests.rig import Node, Rig
from tests.rig.hosts import Hosts
from tests.rig.node_init import CHECKOUT_IN_NODE


def test_the_contract_holds_on_the_real_criu(rig: Rig) -> None:
    pytest = ["env", "PYTHONDONTWRITEBYTECODE=1", "python3", "-m", "pytest", "-q"]
    contract = [f"{CHECKOUT_IN_NODE}/tests/contract", "--real-criu", "-k", "real"]
    argv = [*pytest, "-p", "no:cacheprovider", *contract]
    done = rig.node("alpha").run(argv, check=False, timeout=300)
    passed = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout[-4000:]
    assert passed is not None
    assert int(passed[1]) > 30
    assert "skipped" not in done.stdout


def taken_for_tracking(node: Node) -> tuple[bool, str]:
    """Return whether CRIU takes the kernel for one that tracks memory, and a digest of its cache.

    The cache, criu.kdat, has all that CRIU remembers of the kernel.
    """
    done = node.run(["criu", "check", "--feature", "mem_dirty_track"], check=False)
    return done.returncode == 0, node.run(["sha256sum", "/run/criu.kdat"]).stdout


def test_nobody_but_our_criu_is_told_that_memory_is_tracked(hosts: Hosts) -> None:
    before = taken_for_tracking(hosts.alpha)
    dirtier = hosts.start("dirtier", "--mib", "16")
    _, report = hosts.move(dirtier)
    assert report["pages_skipped_parent"] >= (16 << 20) // 4096, "our CRIU was told"
    assert taken_for_tracking(hosts.alpha) == before

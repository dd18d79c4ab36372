"""Users of the target see of a container what users of the source saw, and no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from migrate.cli.exit_codes import CODES
from migrate.errors import RolledBack
from tests.rig import Container, Node, Redis
from tests.rig.hosts import Hosts
from tests.rig.without import BROKEN_CRIU, CRIU, Without

SECRET = "PASSWORD=in-the-environment"  # noqa: S105
BASE = "/srv/private"
BUNDLE = f"{BASE}/deep/redis"
PATHS = (BASE, f"{BASE}/deep", BUNDLE, f"{BUNDLE}/rootfs", f"{BUNDLE}/config.json")
#: Reads config.json, lists directories, runs a setuid program that root of the container planted,
#: and reads the mark that a move leaves on the source.
SPY = (
    f"cat {BUNDLE}/config.json; ls {BUNDLE} {BUNDLE}/rootfs {BASE}; "
    f"{BUNDLE}/rootfs/planted -p -c id; cat {BUNDLE}/.migrated-away && echo read"
)


def modes(node: Node) -> dict[str, str]:
    """Return mode, user and group of each of PATHS on a node."""
    found = node.run(["stat", "--format", "%n %a %u %g", *PATHS]).stdout.splitlines()
    return dict(line.split(" ", 1) for line in found)


def spied(node: Node) -> str:
    """Return what `nobody` gets to see on a node."""
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    return node.run([*as_nobody, "sh", "-c", SPY], check=False).stdout


@pytest.fixture
def private(hosts: Hosts, redis: Redis[Container]) -> Iterator[Redis[Container]]:
    """redis in a bundle deep in directories, the outermost of which lets only root in.

    The bundle's config.json has a secret.
    """
    script = f"""
        set -e
        pid=$(runc state redis | sed -n 's/.*"pid": \\([0-9]*\\).*/\\1/p')
        runc kill redis KILL; while kill -0 $pid 2>/dev/null; do sleep 0.05; done; runc delete redis
        mkdir -m 0711 -p {BASE}/deep
        chmod 0700 {BASE}; chmod 0751 {BASE}/deep; chgrp 5 {BASE}/deep
        mv {redis.container.bundle} {BUNDLE}; chmod 0700 {BUNDLE}
        sed -i 's/"env": *\\[/"env": ["{SECRET}", /' {BUNDLE}/config.json
        grep -q {SECRET} {BUNDLE}/config.json
        chmod 0600 {BUNDLE}/config.json
        cp /bin/dash {BUNDLE}/rootfs/planted; chmod 4755 {BUNDLE}/rootfs/planted
    """
    hosts.alpha.run(["sh", "-c", script])
    redis.container.leave("run", "-d", "--bundle", BUNDLE)
    yield redis
    for node in hosts.both:
        redis.on(node).remove()
        node.run(["rm", "-rf", BASE])


#: The others are thorough.
USUAL, *OTHERS = "0077", "0000", "0022"


@pytest.fixture(
    params=[USUAL, *(pytest.param(each, marks=pytest.mark.thorough) for each in OTHERS)]
)
def umask(hosts: Hosts, request: pytest.FixtureRequest) -> Iterator[str]:
    """The umask with which sshd's sessions on beta begin."""
    hosts.beta.run(["sh", "-c", f"echo 'umask {request.param}' > /root/.bashrc"])
    assert hosts.alpha.run(["ssh", "beta", "umask"]).stdout.strip() == request.param
    yield request.param
    hosts.beta.run(["rm", "/root/.bashrc"])


def test_the_bundle_is_made_as_it_was(hosts: Hosts, private: Redis[Container], umask: str) -> None:
    before = modes(hosts.alpha)
    assert spied(hosts.alpha) == ""
    private, _ = hosts.move(private)
    assert modes(hosts.beta) == before
    assert spied(hosts.beta) == ""
    assert SECRET in hosts.beta.run(["cat", f"{BUNDLE}/config.json"]).stdout
    private, _ = hosts.move(private)
    assert modes(hosts.alpha) == before
    assert spied(hosts.alpha) == "", "nor of what was left behind"
    assert private.answers()


def test_a_parent_that_is_there_stays_as_it_is_and_lets_nobody_in(
    hosts: Hosts, private: Redis[Container]
) -> None:
    """The source's outermost directory keeps others out, the target's does not.

    Then the next directory must keep them out.
    """
    hosts.beta.run(["sh", "-c", f"mkdir -p {BASE}; chmod 0755 {BASE}"])
    hosts.move(private)
    found = modes(hosts.beta)
    assert found[BASE] == "755 0 0"
    assert found[f"{BASE}/deep"] == "700 0 5"
    assert found[BUNDLE] == "700 0 0"
    assert spied(hosts.beta).split() == ["/srv/private:", "deep"]


def test_parents_that_were_made_go_with_a_roll_back(
    hosts: Hosts, private: Redis[Container]
) -> None:
    with Without(hosts.beta, CRIU, BROKEN_CRIU):
        done = hosts.migrate(hosts.alpha, "redis", "beta")
    assert done.returncode == CODES[RolledBack], done.stderr
    assert hosts.beta.run(["test", "-e", BASE], check=False).returncode == 1

"""Users of the target host get to see of a container what users of the source host saw, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.clients import REDIS_PORT, ask
from tests.integration.conftest import BROKEN, REDIS_ADDRESS, Hosts, without
from tests.rig import Container, Node

SECRET = "PASSWORD=in-the-environment"  # noqa: S105
BASE = "/srv/private"
BUNDLE = f"{BASE}/deep/redis"
PATHS = (BASE, f"{BASE}/deep", BUNDLE, f"{BUNDLE}/rootfs", f"{BUNDLE}/config.json")
#: config.json and a setuid program that root of the container planted, as `nobody` sees them; and what is listed.
SPY = (
    f"cat {BUNDLE}/config.json; ls {BUNDLE} {BUNDLE}/rootfs {BASE}; "
    f"{BUNDLE}/rootfs/planted -p -c id; cat {BUNDLE}/.migrated-away && echo read"
)


def modes(node: Node) -> dict[str, str]:
    found = node.run(["stat", "--format", "%n %a %u %g", *PATHS]).stdout.splitlines()
    return dict(line.split(" ", 1) for line in found)


def spied(node: Node) -> str:
    """What `nobody` gets to see there."""
    return node.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", SPY],
        check=False,
    ).stdout


@pytest.fixture
def private(hosts: Hosts, redis: Container) -> Iterator[Container]:
    """redis in a bundle deep in directories of which the outermost lets root in only; its config.json has a secret."""
    script = f"""
        set -e
        pid=$(runc state redis | sed -n 's/.*"pid": \\([0-9]*\\).*/\\1/p')
        runc kill redis KILL; while kill -0 $pid 2>/dev/null; do sleep 0.05; done; runc delete redis
        mkdir -m 0711 -p {BASE}/deep; chmod 0700 {BASE}; chmod 0751 {BASE}/deep; chgrp 5 {BASE}/deep
        mv /srv/containers/redis {BUNDLE}; chmod 0700 {BUNDLE}
        sed -i 's/"env": *\\[/"env": ["{SECRET}", /' {BUNDLE}/config.json
        grep -q {SECRET} {BUNDLE}/config.json
        chmod 0600 {BUNDLE}/config.json
        cp /bin/dash {BUNDLE}/rootfs/planted; chmod 4755 {BUNDLE}/rootfs/planted
    """
    hosts.alpha.run(["sh", "-c", script])
    redis.leave("run", "-d", "--bundle", BUNDLE)
    yield redis
    for node in (hosts.alpha, hosts.beta):
        replace(redis, node=node).remove()
        node.run(["rm", "-rf", BASE])


@pytest.fixture(params=["0000", "0022", "0077"])
def umask(hosts: Hosts, request: pytest.FixtureRequest) -> Iterator[str]:
    """What sshd's sessions on beta begin with."""
    hosts.beta.run(["sh", "-c", f"echo 'umask {request.param}' > /root/.bashrc"])
    assert hosts.alpha.run(["ssh", "beta", "umask"]).stdout.strip() == request.param
    yield request.param
    hosts.beta.run(["rm", "/root/.bashrc"])


def test_the_bundle_is_made_as_it_was(hosts: Hosts, private: Container, umask: str) -> None:
    before = modes(hosts.alpha)
    assert spied(hosts.alpha) == ""
    done = hosts.migrate(hosts.alpha, "redis", "beta")
    assert done.returncode == 0, done.stderr
    assert modes(hosts.beta) == before
    assert spied(hosts.beta) == ""
    assert SECRET in hosts.beta.run(["cat", f"{BUNDLE}/config.json"]).stdout
    done = hosts.migrate(hosts.beta, "redis", "alpha")
    assert done.returncode == 0, done.stderr
    assert modes(hosts.alpha) == before
    assert spied(hosts.alpha) == "", "nor of what was left behind"
    assert ask(hosts.rig.switch, REDIS_ADDRESS, REDIS_PORT, "PING") == "+PONG"


def test_a_parent_that_is_there_stays_as_it_is_and_lets_nobody_in(
    hosts: Hosts, private: Container
) -> None:
    """The source's outermost directory keeps others out, the target's does not: then the next one must."""
    hosts.beta.run(["sh", "-c", f"mkdir -p {BASE}; chmod 0755 {BASE}"])
    assert hosts.migrate(hosts.alpha, "redis", "beta").returncode == 0
    found = modes(hosts.beta)
    assert found[BASE] == "755 0 0"
    assert found[f"{BASE}/deep"] == "700 0 5"
    assert found[BUNDLE] == "700 0 0"
    assert spied(hosts.beta).split() == ["/srv/private:", "deep"]


def test_parents_that_were_made_go_with_a_roll_back(hosts: Hosts, private: Container) -> None:
    with without(hosts.beta, "/usr/sbin/criu", BROKEN):
        assert hosts.migrate(hosts.alpha, "redis", "beta").returncode == 50
    assert hosts.beta.run(["test", "-e", BASE], check=False).returncode == 1

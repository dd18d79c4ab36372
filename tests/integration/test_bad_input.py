"""Whatever cannot work is refused in one line, with an exit code of its own, and nothing is changed."""

from collections.abc import Iterator

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.integration.conftest import REDIS, REDIS_ADDRESS, Hosts, new_traces, traces, without
from tests.rig import Container, Node

KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"
KEPT = "/root/kept"
NOTHING_CHANGED = "nothing was changed"


def refused(
    hosts: Hosts, *words: str, source: Node | None = None
) -> tuple[type[errors.MigrateError], str]:
    """Run the tool, which must refuse and change nothing; the class of its error, and what it said."""
    before = [traces(node) for node in (hosts.alpha, hosts.beta)]
    done = hosts.migrate(source or hosts.alpha, *words)
    said = done.stderr.strip()
    assert done.stdout == ""
    assert done.returncode != 0
    assert len(said.splitlines()) == 1, said
    assert NOTHING_CHANGED in said
    assert [
        new_traces(old, traces(node))
        for old, node in zip(before, (hosts.alpha, hosts.beta), strict=True)
    ] == [
        {},
        {},
    ]
    by_code = {code: kind for kind, code in CODES.items()}
    return by_code[done.returncode], said


@pytest.mark.parametrize(
    ("name", "told"), [("nobody", "'nobody'"), ("\udcff", "udcff")], ids=["text", "no text"]
)
def test_unknown_container(hosts: Hosts, name: str, told: str) -> None:
    kind, said = refused(hosts, name, "beta")
    assert kind is errors.NoSuchContainer
    assert told in said


def test_container_that_does_not_run(hosts: Hosts, redis: Container) -> None:
    hosts.alpha.run(["runc", "pause", "redis"])
    kind, said = refused(hosts, "redis", "beta")
    assert kind is errors.NotRunning
    assert "paused" in said


@pytest.mark.parametrize(
    ("host", "why"),
    [("gamma", "cannot resolve gamma: "), ("beta:1", "beta port 1: Connection refused")],
)
def test_unreachable_host(hosts: Hosts, redis: Container, host: str, why: str) -> None:
    kind, said = refused(hosts, "redis", host)
    assert kind is errors.TargetUnreachable
    assert why in said


@pytest.fixture
def sealed(hosts: Hosts) -> Iterator[Node]:
    """beta takes no key of alpha's."""
    hosts.beta.run(["mv", "/root/.ssh/authorized_keys", "/root/.ssh/kept"])
    yield hosts.beta
    hosts.beta.run(["mv", "/root/.ssh/kept", "/root/.ssh/authorized_keys"])


def test_authentication_refused(hosts: Hosts, redis: Container, sealed: Node) -> None:
    assert refused(hosts, "redis", "beta")[0] is errors.AuthenticationFailed


def test_unknown_host_key(hosts: Hosts, redis: Container) -> None:
    hosts.alpha.run(["mv", KNOWN_HOSTS, KEPT])
    try:
        assert refused(hosts, "redis", "beta")[0] is errors.UnknownHostKey
    finally:
        hosts.alpha.run(["mv", KEPT, KNOWN_HOSTS])


def test_changed_host_key(hosts: Hosts, redis: Container) -> None:
    # alpha's own key where beta's belongs
    script = (
        f"cp {KNOWN_HOSTS} {KEPT}; k=$(awk '/alpha/ {{print $3; exit}}' {KEPT});"
        f' sed -i "/beta/s#[^ ]*\\$#$k#" {KNOWN_HOSTS}'
    )
    hosts.alpha.run(["sh", "-c", script])
    try:
        assert refused(hosts, "redis", "beta")[0] is errors.ChangedHostKey
    finally:
        hosts.alpha.run(["mv", KEPT, KNOWN_HOSTS])


@pytest.mark.parametrize(
    ("path", "program"),
    [
        ("/usr/sbin/criu", "criu"),
        ("/usr/lib/python3/dist-packages/pycriu", "pycriu"),
        ("/usr/sbin/runc", "runc"),
        ("/usr/bin/rsync", "rsync"),
        ("/usr/bin/python3", "python3"),
    ],
)
def test_target_without_a_program(hosts: Hosts, redis: Container, path: str, program: str) -> None:
    found = hosts.beta.run(
        ["sh", "-c", f"command -v {path.rsplit('/', 1)[1]} || echo {path}"]
    ).stdout.strip()
    with without(hosts.beta, found):
        done = hosts.migrate(hosts.alpha, "redis", "beta")
    assert done.returncode == CODES[errors.MissingOnHost], done.stderr
    assert f"no usable {program} on the target beta" in done.stderr
    assert NOTHING_CHANGED in done.stderr


def fake_version(text: str) -> str:
    """A criu that claims another version and is the real one otherwise."""
    return f'#!/bin/sh\n[ "$1" = --version ] && echo "Version: {text}" && exit\nexec /usr/sbin/criu.kept "$@"\n'


def test_criu_too_old_for_its_kernel(hosts: Hosts, redis: Container) -> None:
    with without(hosts.beta, "/usr/sbin/criu", fake_version("4.1")):
        kind, said = refused(hosts, "redis", "beta")
    assert kind is errors.CriuTooOld
    assert "CRIU 4.1 on the target beta" in said
    assert "4.2 or newer" in said


def test_criu_of_another_wire_version(hosts: Hosts, redis: Container) -> None:
    """An old kernel would take the old CRIU; both hosts here have the same, so the kernel is made to look old too."""
    uname = "import platform; platform.release = lambda: '6.1.0'\n"
    site = "/usr/lib/python3/dist-packages/old-kernel.pth"
    hosts.beta.run(["sh", "-c", f"cat > {site}"], input=uname)
    try:
        with without(hosts.beta, "/usr/sbin/criu", fake_version("4.1")):
            kind, said = refused(hosts, "redis", "beta")
    finally:
        hosts.beta.run(["rm", site])
    assert kind is errors.CriuWireMismatch
    assert "4.2.1 on the source and 4.1 on the target" in said


def test_not_root_on_the_source(hosts: Hosts, redis: Container) -> None:
    done = hosts.alpha.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "migrate", "redis", "beta"], check=False
    )
    assert done.returncode == CODES[errors.NotRoot], done.stderr
    assert "not root on the source alpha" in done.stderr


def test_not_root_on_the_target(hosts: Hosts, redis: Container) -> None:
    make = (
        "useradd -m mover && mkdir -m 700 ~mover/.ssh && cp /root/.ssh/authorized_keys ~mover/.ssh/"
        " && chown -R mover ~mover/.ssh"
    )
    hosts.beta.run(["sh", "-c", make])
    try:
        kind, said = refused(hosts, "redis", "mover@beta")
    finally:
        hosts.beta.run(["sh", "-c", "userdel -r mover 2>/dev/null"])
    assert kind is errors.NotRoot
    assert "not root on the target beta" in said


def test_name_taken_on_the_target(hosts: Hosts, redis: Container) -> None:
    hosts.beta.start_container("redis", ip="10.77.0.51", argv=REDIS)
    kind, said = refused(hosts, "redis", "beta")
    assert kind is errors.NameTaken
    assert "beta already has a runc container named 'redis'" in said


def test_files_of_somebody_else_on_the_target(hosts: Hosts, redis: Container) -> None:
    hosts.beta.run(
        ["sh", "-c", "mkdir -p /srv/containers/redis && echo mine > /srv/containers/redis/precious"]
    )
    assert refused(hosts, "redis", "beta")[0] is errors.PathTaken
    assert hosts.beta.run(["cat", "/srv/containers/redis/precious"]).stdout == "mine\n"


def test_too_little_memory_on_the_target(hosts: Hosts, redis: Container) -> None:
    limit = MemoryLimit(hosts.beta)
    used = limit.used()
    with limit.of(used + (40 << 20)):
        kind, said = refused(hosts, "redis", "beta")
    assert kind is errors.NotEnoughMemory
    assert "MiB of RAM to give" in said


class MemoryLimit:
    """The memory limit of a whole node: that of its cgroup, which it sees as its root."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def used(self) -> int:
        return int(
            self._node.run(["sh", "-c", "cat /sys/fs/cgroup/memory/memory.usage_in_bytes"]).stdout
        )

    def of(self, size_bytes: int) -> "MemoryLimit":
        self._size = size_bytes
        return self

    def _set(self, text: str) -> None:
        self._node.run(["sh", "-c", f"echo {text} > /sys/fs/cgroup/memory/memory.limit_in_bytes"])

    def __enter__(self) -> None:
        self._set(str(self._size))

    def __exit__(self, *_: object) -> None:
        self._set("-1")


def test_file_open_outside_the_container(hosts: Hosts) -> None:
    """The container was started with a host file as its output, as with `runc run > file`."""
    container = Container(node=hosts.alpha, name="outside", address="10.77.0.52")
    made = hosts.alpha.start_container("outside", ip="10.77.0.52", argv=["sleep", "1000"])
    hosts.alpha.run(["runc", "delete", "--force", "outside"])
    hosts.alpha.run(
        [
            "sh",
            "-c",
            f"runc run -d --bundle {made.bundle} outside > /root/output.txt 2>&1 < /dev/null",
        ]
    )
    kind, said = refused(hosts, "outside", "beta")
    assert kind is errors.OpenFileOutside
    assert "fd 1 open on /root/output.txt" in said
    assert container.status == "running"


@pytest.mark.parametrize(
    "config",
    ["{", "[]", '{"root": {}}', '{"root": {"path": "rootfs"}, "mounts": [{"type": "bind"}]}'],
)
def test_a_bundle_whose_config_is_damaged(hosts: Hosts, redis: Container, config: str) -> None:
    path = f"{redis.bundle}/config.json"
    hosts.alpha.run(["cp", path, KEPT])
    hosts.alpha.run(["sh", "-c", f"cat > {path}"], input=config)
    try:
        kind, said = refused(hosts, "redis", "beta")
    finally:
        hosts.alpha.run(["mv", KEPT, path])
    assert issubclass(kind, errors.Refused)
    assert f"{path} is damaged" in said or f"{path}, mount at" in said
    assert redis.status == "running"


def test_a_station_on_the_targets_network_that_sends_runt_frames(
    hosts: Hosts, redis: Container
) -> None:
    """A program with CAP_NET_RAW there answers every ARP request by frames that are cut off; it stops nobody's move."""
    code = (
        "import socket, struct; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806));"
        " s.bind(('v-rude', 0x0806)); print(flush=True)\n"
        "while True:\n"
        "  frame = s.recv(2048)\n"
        "  for size in range(14, 42): s.send((b'\\xff' * 6 + frame[6:12] + frame[12:])[:size])\n"
    )
    made = (
        "ip netns add rude && ip link add v-port type veth peer name v-rude netns rude"
        " && ip link set v-port master br0 up && ip -n rude link set v-rude up"
        f' && {{ ip netns exec rude timeout 60 python3 -c "{code}" > /dev/null 2>&1 & }}; sleep 0.5'
    )
    hosts.beta.run(["sh", "-c", made])
    try:
        done = hosts.migrate(hosts.alpha, "redis", "beta")
    finally:
        hosts.beta.run(
            [
                "sh",
                "-c",
                "ip netns pids rude | xargs -r kill; ip link delete v-port; ip netns delete rude",
            ]
        )
    assert done.returncode == 0, done.stderr


def test_address_in_use_on_the_targets_network(hosts: Hosts, redis: Container) -> None:
    """A station on the target's network that is not the container answers for its address."""
    script = (
        "ip netns add squatter && ip link add v-squatter type veth peer name eth0 netns squatter"
        " && ip link set v-squatter master br0 up && ip -n squatter link set eth0 up"
        f" && ip -n squatter address add {REDIS_ADDRESS}/24 dev eth0"
    )
    hosts.beta.run(["sh", "-c", script])
    try:
        kind, said = refused(hosts, "redis", "beta")
    finally:
        hosts.beta.run(["sh", "-c", "ip link delete v-squatter; ip netns delete squatter"])
    assert kind is errors.AddressTaken
    assert f"address {REDIS_ADDRESS} is already in use" in said


@pytest.mark.parametrize(
    "host", ["", "-oProxyCommand=x", "a b", "beta:0", "beta:99999", "user@@beta"]
)
def test_host_that_is_none(hosts: Hosts, host: str) -> None:
    done = hosts.migrate(hosts.alpha, "--", "redis", host)
    assert done.returncode == CODES[errors.BadRequest]
    assert done.stdout == ""


def test_ssh_config_is_honoured(hosts: Hosts, redis: Container) -> None:
    config = "Host elsewhere\n  HostName beta\n  User root\n  HostKeyAlias beta\n"
    hosts.alpha.run(["sh", "-c", "umask 077; cat > /root/.ssh/config"], input=config)
    try:
        done = hosts.migrate(hosts.alpha, "redis", "elsewhere")
    finally:
        hosts.alpha.run(["rm", "/root/.ssh/config"])
    assert done.returncode == 0, done.stderr

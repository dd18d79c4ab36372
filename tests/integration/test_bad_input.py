"""A move that cannot work is refused in one line, with its own exit code, and changes nothing."""

from collections.abc import Iterator

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.rig import Container, Node, Redis
from tests.rig.hosts import NOTHING_CHANGED, Hosts
from tests.rig.seed import KNOWN_HOSTS_IN_NODE as KNOWN_HOSTS
from tests.rig.without import CRIU, Without
from tests.rig.workload import ADDRESS, REDIS

OTHER_ADDRESS = "10.77.0.51"
KEPT = "/root/kept"


@pytest.mark.parametrize(
    ("name", "told"), [("nobody", "'nobody'"), ("\udcff", "udcff")], ids=["text", "no text"]
)
def test_an_unknown_container_is_refused(hosts: Hosts, name: str, told: str) -> None:
    kind, said = hosts.refused(name, "beta")
    assert kind is errors.NoSuchContainer
    assert told in said


def test_a_paused_container_is_refused(hosts: Hosts, redis: Redis[Container]) -> None:
    hosts.alpha.run(["runc", "pause", "redis"])
    kind, said = hosts.refused("redis", "beta")
    assert kind is errors.NotRunning
    assert "paused" in said


@pytest.mark.parametrize(
    ("host", "why"),
    [("gamma", "cannot resolve gamma: "), ("beta:1", "beta port 1: Connection refused")],
)
def test_an_unreachable_host_is_told_with_the_reason(
    hosts: Hosts, redis: Redis[Container], host: str, why: str
) -> None:
    kind, said = hosts.refused("redis", host)
    assert kind is errors.TargetUnreachable
    assert why in said


@pytest.fixture
def sealed(hosts: Hosts) -> Iterator[None]:
    """beta takes no key of alpha's."""
    hosts.beta.run(["mv", "/root/.ssh/authorized_keys", "/root/.ssh/kept"])
    yield
    hosts.beta.run(["mv", "/root/.ssh/kept", "/root/.ssh/authorized_keys"])


def test_a_host_that_takes_no_key_is_told(
    hosts: Hosts, redis: Redis[Container], sealed: None
) -> None:
    assert hosts.refused("redis", "beta")[0] is errors.AuthenticationFailed


def test_an_unknown_host_key_is_refused(hosts: Hosts, redis: Redis[Container]) -> None:
    hosts.alpha.run(["mv", KNOWN_HOSTS, KEPT])
    try:
        assert hosts.refused("redis", "beta")[0] is errors.UnknownHostKey
    finally:
        hosts.alpha.run(["mv", KEPT, KNOWN_HOSTS])


def test_a_changed_host_key_is_refused(hosts: Hosts, redis: Redis[Container]) -> None:
    # alpha's own key is put where beta's belongs.
    script = (
        f"cp {KNOWN_HOSTS} {KEPT}; k=$(awk '/alpha/ {{print $3; exit}}' {KEPT});"
        f' sed -i "/beta/s#[^ ]*\\$#$k#" {KNOWN_HOSTS}'
    )
    hosts.alpha.run(["sh", "-c", script])
    try:
        assert hosts.refused("redis", "beta")[0] is errors.ChangedHostKey
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
def test_a_program_that_the_target_lacks_is_named(
    hosts: Hosts, redis: Redis[Container], path: str, program: str
) -> None:
    look = f"command -v {path.rsplit('/', 1)[1]} || echo {path}"
    found = hosts.beta.run(["sh", "-c", look]).stdout.strip()
    with Without(hosts.beta, found):
        done = hosts.migrate(hosts.alpha, "redis", "beta")
    assert done.returncode == CODES[errors.MissingOnHost], done.stderr
    assert f"no usable {program} on the target beta" in done.stderr
    assert NOTHING_CHANGED in done.stderr


def criu_of_version(text: str) -> str:
    """Return a script that claims to be another version of CRIU, and is the real one otherwise."""
    claim = f'[ "$1" = --version ] && echo "Version: {text}" && exit'
    return f'#!/bin/sh\n{claim}\nexec /usr/sbin/criu.kept "$@"\n'


def test_a_criu_that_is_too_old_for_its_kernel_is_refused(
    hosts: Hosts, redis: Redis[Container]
) -> None:
    with Without(hosts.beta, CRIU, criu_of_version("4.1")):
        kind, said = hosts.refused("redis", "beta")
    assert kind is errors.CriuTooOld
    assert "CRIU 4.1 on the target beta" in said
    assert "4.2 or newer" in said


def test_a_criu_of_another_wire_version_is_refused(hosts: Hosts, redis: Redis[Container]) -> None:
    """Only an old kernel takes the old CRIU, so the target's is made to look old, too."""
    uname = "import platform; platform.release = lambda: '6.1.0'\n"
    site = "/usr/lib/python3/dist-packages/old-kernel.pth"
    hosts.beta.run(["sh", "-c", f"cat > {site}"], input=uname)
    try:
        with Without(hosts.beta, CRIU, criu_of_version("4.1")):
            kind, said = hosts.refused("redis", "beta")
    finally:
        hosts.beta.run(["rm", site])
    assert kind is errors.CriuWireMismatch
    assert "4.2.1 on the source and 4.1 on the target" in said


def test_who_is_not_root_on_the_source_is_refused(hosts: Hosts, redis: Redis[Container]) -> None:
    as_nobody = ["setpriv", "--reuid=65534", "--clear-groups"]
    done = hosts.alpha.run([*as_nobody, "migrate", "redis", "beta"], check=False)
    assert done.returncode == CODES[errors.NotRoot], done.stderr
    assert "not root on the source alpha" in done.stderr


def test_who_is_not_root_on_the_target_is_refused(hosts: Hosts, redis: Redis[Container]) -> None:
    make = (
        "useradd -m mover && mkdir -m 700 ~mover/.ssh"
        " && cp /root/.ssh/authorized_keys ~mover/.ssh/ && chown -R mover ~mover/.ssh"
    )
    hosts.beta.run(["sh", "-c", make])
    try:
        kind, said = hosts.refused("redis", "mover@beta")
    finally:
        hosts.beta.run(["sh", "-c", "userdel -r mover 2>/dev/null"])
    assert kind is errors.NotRoot
    assert "not root on the target beta" in said


def test_a_name_that_the_target_has_already_is_refused(
    hosts: Hosts, redis: Redis[Container]
) -> None:
    hosts.beta.start_container("redis", ip=OTHER_ADDRESS, argv=REDIS)
    kind, said = hosts.refused("redis", "beta")
    assert kind is errors.NameTaken
    assert "beta already has a runc container named 'redis'" in said


def test_files_of_somebody_else_on_the_target_are_left_alone(
    hosts: Hosts, redis: Redis[Container]
) -> None:
    precious = f"{redis.container.bundle}/precious"
    make = f"mkdir -p {redis.container.bundle} && echo mine > {precious}"
    hosts.beta.run(["sh", "-c", make])
    assert hosts.refused("redis", "beta")[0] is errors.PathTaken
    assert hosts.beta.run(["cat", precious]).stdout == "mine\n"


class MemoryLimit:
    """The memory limit of a whole node: that of its cgroup, which the node sees as its root.

    There is a limit during a `with` block, of so many bytes more than the node uses now.
    """

    USED = "/sys/fs/cgroup/memory/memory.usage_in_bytes"
    LIMIT = "/sys/fs/cgroup/memory/memory.limit_in_bytes"

    def __init__(self, node: Node, room_bytes: int) -> None:
        self._node, self._room_bytes = node, room_bytes

    def __enter__(self) -> None:
        self._set(int(self._node.run(["cat", self.USED]).stdout) + self._room_bytes)

    def __exit__(self, *_: object) -> None:
        self._set(-1)

    def _set(self, size_bytes: int) -> None:
        self._node.run(["sh", "-c", f"echo {size_bytes} > {self.LIMIT}"])


def test_a_target_with_too_little_memory_is_refused(hosts: Hosts, redis: Redis[Container]) -> None:
    with MemoryLimit(hosts.beta, 40 << 20):
        kind, said = hosts.refused("redis", "beta")
    assert kind is errors.NotEnoughMemory
    assert "MiB of RAM to give" in said


def test_a_file_that_is_open_outside_the_container_is_refused(hosts: Hosts) -> None:
    """The container was started with a host file as its output, as with `runc run > file`."""
    container = hosts.alpha.start_container("outside", ip=ADDRESS, argv=["sleep", "1000"])
    hosts.alpha.run(["runc", "delete", "--force", "outside"])
    run = f"runc run -d --bundle {container.bundle} outside"
    hosts.alpha.run(["sh", "-c", f"{run} > /root/output.txt 2>&1 < /dev/null"])
    kind, said = hosts.refused("outside", "beta")
    assert kind is errors.OpenFileOutside
    assert "fd 1 open on /root/output.txt" in said
    assert container.status == "running"


@pytest.mark.parametrize(
    "config",
    ["{", "[]", '{"root": {}}', '{"root": {"path": "rootfs"}, "mounts": [{"type": "bind"}]}'],
)
def test_a_bundle_whose_config_is_damaged_is_refused(
    hosts: Hosts, redis: Redis[Container], config: str
) -> None:
    path = f"{redis.container.bundle}/config.json"
    hosts.alpha.run(["cp", path, KEPT])
    hosts.alpha.run(["sh", "-c", f"cat > {path}"], input=config)
    try:
        kind, said = hosts.refused("redis", "beta")
    finally:
        hosts.alpha.run(["mv", KEPT, path])
    assert issubclass(kind, errors.Refused)
    assert f"{path} is damaged" in said or f"{path}, mount at" in said
    assert redis.status == "running"


#: Answers every ARP request that comes by on v-rude with frames that are cut off.
RUDE = """
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
s.bind(("v-rude", 0x0806))
print("ready", flush=True)
while True:
    frame = s.recv(2048)
    for size in range(14, 42):
        s.send((b"\\xff" * 6 + frame[6:12] + frame[12:])[:size])
"""


def test_runt_frames_on_the_targets_network_stop_no_move(
    hosts: Hosts, redis: Redis[Container]
) -> None:
    """Any program there with CAP_NET_RAW can do this; it stops nobody's move."""
    make = (
        "ip netns add rude && ip link add v-port type veth peer name v-rude netns rude"
        " && ip link set v-port master br0 up && ip -n rude link set v-rude up"
        ' && { ip netns exec rude timeout 60 python3 -c "$1" > /run/rude 2>&1 & };'
        " until grep -q ready /run/rude; do sleep 0.01; done; rm /run/rude"
    )
    unmake = "ip netns pids rude | xargs -r kill; ip link delete v-port; ip netns delete rude"
    hosts.beta.run(["sh", "-c", make, "sh", RUDE])
    try:
        done = hosts.migrate(hosts.alpha, "redis", "beta")
    finally:
        hosts.beta.run(["sh", "-c", unmake])
    assert done.returncode == 0, done.stderr


def test_an_address_in_use_on_the_targets_network_is_refused(
    hosts: Hosts, redis: Redis[Container]
) -> None:
    """A station on the target's network that is not the container answers for its address."""
    make = (
        "ip netns add squatter && ip link add v-squatter type veth peer name eth0 netns squatter"
        " && ip link set v-squatter master br0 up && ip -n squatter link set eth0 up"
        f" && ip -n squatter address add {ADDRESS}/24 dev eth0"
    )
    hosts.beta.run(["sh", "-c", make])
    try:
        kind, said = hosts.refused("redis", "beta")
    finally:
        hosts.beta.run(["sh", "-c", "ip link delete v-squatter; ip netns delete squatter"])
    assert kind is errors.AddressTaken
    assert f"address {ADDRESS} is already in use" in said


@pytest.mark.parametrize(
    "host", ["", "-oProxyCommand=x", "a b", "beta:0", "beta:99999", "user@@beta"]
)
def test_a_word_that_names_no_host_is_refused(hosts: Hosts, host: str) -> None:
    done = hosts.migrate(hosts.alpha, "--", "redis", host)
    assert done.returncode == CODES[errors.BadRequest]
    assert done.stdout == ""


def test_ssh_config_is_honoured(hosts: Hosts, redis: Redis[Container]) -> None:
    config = "Host elsewhere\n  HostName beta\n  User root\n  HostKeyAlias beta\n"
    hosts.alpha.run(["sh", "-c", "umask 077; cat > /root/.ssh/config"], input=config)
    try:
        done = hosts.migrate(hosts.alpha, "redis", "elsewhere")
    finally:
        hosts.alpha.run(["rm", "/root/.ssh/config"])
    assert done.returncode == 0, done.stderr

"""The files in which the nodes of one rig differ from their Debian tree.

They are its names, its SSH keys, and the programs that start the tool.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.rig import names
from tests.rig.node_init import CHECKOUT_IN_NODE, PYTHON_IN_NODE
from tests.rig.process import run

KNOWN_HOSTS_IN_NODE = "/etc/ssh/ssh_known_hosts"
#: Where a node keeps the bytecode of the checkout, which can only be read.
BYTECODE = "/var/cache/bytecode"
LAUNCHERS = ("migrate", "migratectl")
LAUNCHER = f"""\
#!{PYTHON_IN_NODE}
import sys

sys.pycache_prefix = "{BYTECODE}"
sys.path.insert(0, "{CHECKOUT_IN_NODE}")
from migrate.cli.entry import {{program}}

sys.exit({{program}}())
"""
SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UseDNS no
MaxStartups 100
"""
ROOT_KEY = "root_key"
#: A file among the keys, for connections from this machine.
KNOWN_HOSTS = "known_hosts"


def write_seed(directory: Path, nodes: Sequence[str], node: str, keys: Path) -> None:
    """Write the files of one node into a directory. `keys` has the host keys of all nodes."""
    _write(directory / "etc/hostname", f"{node}\n")
    _write(directory / "etc/hosts", _hosts(nodes, node))
    # Nothing outside the rig is reachable, so that a look-up fails at once.
    _write(directory / "etc/resolv.conf", "")
    ssh = directory / "etc/ssh"
    _write(ssh / "sshd_config.d/rig.conf", SSHD_CONFIG)
    _write(directory / KNOWN_HOSTS_IN_NODE.lstrip("/"), _known_hosts(nodes, keys))
    _write(ssh / "ssh_host_ed25519_key", (keys / node).read_text(), 0o600)
    _write(ssh / "ssh_host_ed25519_key.pub", _public_key(keys / node))
    root = directory / "root"
    _write(root / ".ssh/id_ed25519", (keys / ROOT_KEY).read_text(), 0o600)
    _write(root / ".ssh/id_ed25519.pub", _public_key(keys / ROOT_KEY))
    _write(root / ".ssh/authorized_keys", _public_key(keys / ROOT_KEY))
    (root / ".ssh").chmod(0o700)
    root.chmod(0o700)
    for program in LAUNCHERS:
        _write(directory / "usr/local/bin" / program, LAUNCHER.format(program=program), 0o755)
    (directory / "srv/containers").mkdir(parents=True)
    (directory / "var/log/containers").mkdir(parents=True)


def make_keys(nodes: Sequence[str], keys: Path) -> None:
    """Make a host key for each node, and one key with which root is let in everywhere."""
    keys.mkdir(mode=0o700)
    _generate_key(keys / ROOT_KEY, "rig")
    for node in nodes:
        _generate_key(keys / node, node)
    _write(keys / KNOWN_HOSTS, _known_hosts(nodes, keys))


def host_key(node: str, keys: Path) -> str:
    """Return the public part of a node's host key, in base64."""
    return _public_key(keys / node).split()[1]


def _known_hosts(nodes: Sequence[str], keys: Path) -> str:
    return "".join(
        f"{node},{names.node_address(node)} ssh-ed25519 {host_key(node, keys)}\n" for node in nodes
    )


def _hosts(nodes: Sequence[str], node: str) -> str:
    lines = ["127.0.0.1 localhost", *(f"{names.node_address(name)} {name}" for name in nodes)]
    return "\n".join(lines) + "\n"


def _generate_key(path: Path, comment: str) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path], keep_lock=True)


def _public_key(path: Path) -> str:
    return path.with_suffix(".pub").read_text()


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def main() -> None:
    """Write seeds for nodes that no rig makes: python3 -m tests.rig.seed DIRECTORY NODE..."""
    directory, *nodes = sys.argv[1:]
    Path(directory).mkdir(parents=True)
    make_keys(nodes, Path(directory) / "keys")
    for node in nodes:
        write_seed(Path(directory) / node, nodes, node, Path(directory) / "keys")


if __name__ == "__main__":
    main()

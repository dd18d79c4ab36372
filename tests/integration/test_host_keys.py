"""The target's key is checked against known_hosts and ssh_config as ssh(1) reads them.

Each case is tried on a real sshd, and most of them with ssh(1) itself, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from migrate import errors
from tests.rig import Container, Node, Redis, until
from tests.rig.hosts import Hosts
from tests.rig.seed import KNOWN_HOSTS_IN_NODE as KNOWN_HOSTS

SSHD_CONFIG = "/etc/ssh/sshd_config.d/rig.conf"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
#: Makes a certificate authority on alpha, and prints its key.
AUTHORITY = (
    "cd /root && rm -f ca ca.pub && ssh-keygen -q -t ed25519 -N '' -f ca && cut -d' ' -f1,2 ca.pub"
)
CERTIFY = "ssh-keygen -q -s /root/ca -I beta -h {options} /root/beta.pub"


@pytest.fixture
def known(hosts: Hosts) -> Iterator[None]:
    """alpha's known_hosts and beta's sshd are afterwards what they were."""
    hosts.alpha.run(["cp", KNOWN_HOSTS, "/root/kept"])
    hosts.beta.run(["cp", SSHD_CONFIG, "/root/kept"])
    yield
    script = f"mv /root/kept {KNOWN_HOSTS}; rm -f /root/ca* /root/beta* /root/.ssh/config"
    hosts.alpha.run(["sh", "-c", script])
    script = f"mv /root/kept {SSHD_CONFIG}; rm -f {HOST_KEY}-cert.pub /etc/ssh/other*"
    hosts.beta.run(["sh", "-c", script])
    reload_sshd(hosts.beta)


def reload_sshd(node: Node) -> None:
    """Have sshd read its configuration again, and wait until it answers."""
    node.run(["sh", "-c", "kill -HUP $(cat /run/sshd.pid)"])
    until(
        lambda: node.run(["ssh-keyscan", "localhost"], check=False).stdout != "", "sshd to answer"
    )


def know(hosts: Hosts, *lines: str) -> None:
    """Have alpha know these lines alone; CA stands for its authority's key, ED for beta's key."""
    authority = hosts.alpha.run(["sh", "-c", AUTHORITY]).stdout.strip()
    host = public_key(hosts.beta, HOST_KEY)
    text = "".join(f"{line}\n" for line in lines)
    text = text.replace(" CA", f" {authority}").replace(" ED", f" {host}")
    hosts.alpha.run(["sh", "-c", f"cat > {KNOWN_HOSTS}"], input=text)


def public_key(node: Node, path: str) -> str:
    """Return the type and the public part of a key on a node."""
    return node.run(["cut", "-d", " ", "-f", "1,2", f"{path}.pub"]).stdout.strip()


def certify(hosts: Hosts, options: str) -> None:
    """Have beta show a certificate by alpha's authority."""
    public = hosts.beta.run(["cat", f"{HOST_KEY}.pub"]).stdout
    script = f"cat > /root/beta.pub && {CERTIFY.format(options=options)}"
    hosts.alpha.run(["sh", "-c", script], input=public)
    certificate = hosts.alpha.run(["cat", "/root/beta-cert.pub"]).stdout
    setting = f"HostCertificate {HOST_KEY}-cert.pub"
    write = f"cat > {HOST_KEY}-cert.pub && echo {setting} >> {SSHD_CONFIG}"
    hosts.beta.run(["sh", "-c", write], input=certificate)
    reload_sshd(hosts.beta)


def ssh_gets_in(hosts: Hosts, name: str = "beta") -> bool:
    """Return whether ssh(1) lets alpha in at a host of that name."""
    return hosts.alpha.run(["ssh", "-oBatchMode=yes", name, "true"], check=False).returncode == 0


def test_a_revoked_key_is_refused(hosts: Hosts, redis: Redis[Container], known: None) -> None:
    know(hosts, "beta ED", "@revoked * ED")
    assert not ssh_gets_in(hosts)
    kind, said = hosts.refused("redis", "beta")
    assert kind is errors.RefusedHostKey
    assert "the key of beta is marked as revoked" in said


def test_a_certificate_of_a_known_authority_is_accepted(
    hosts: Hosts, redis: Redis[Container], known: None
) -> None:
    know(hosts, "@cert-authority be* CA")
    certify(hosts, "-n beta,10.77.0.12")
    assert ssh_gets_in(hosts)
    assert hosts.migrate(hosts.alpha, "redis", "beta").returncode == 0


TRUSTED = "@cert-authority * CA"
REFUSED = errors.RefusedHostKey


@pytest.mark.parametrize(
    ("lines", "options", "kind", "why"),
    [
        ([TRUSTED], "-n beta -V 20200101:20200102", REFUSED, "it has expired"),
        ([TRUSTED], "-n gamma", REFUSED, "it is for gamma"),
        ([TRUSTED, "@revoked * CA"], "-n beta", REFUSED, "marked as revoked"),
        ([TRUSTED, "@revoked * ED"], "-n beta", REFUSED, "marked as revoked"),
        (["@cert-authority gamma CA"], "-n beta", errors.UnknownHostKey, "no key of beta in"),
    ],
)
def test_a_certificate_that_does_not_hold_is_refused(
    hosts: Hosts,
    redis: Redis[Container],
    known: None,
    lines: list[str],
    options: str,
    kind: type[errors.MigrateError],
    why: str,
) -> None:
    know(hosts, *lines)
    certify(hosts, options)
    assert not ssh_gets_in(hosts)
    told, said = hosts.refused("redis", "beta")
    assert told is kind
    assert why in said


def test_a_host_with_several_keys_shows_the_one_that_is_known(
    hosts: Hosts, redis: Redis[Container], known: None
) -> None:
    other = "/etc/ssh/other"
    make = f"ssh-keygen -q -t ecdsa -N '' -f {other} && echo HostKey {other} >> {SSHD_CONFIG}"
    hosts.beta.run(["sh", "-c", make])
    reload_sshd(hosts.beta)
    know(hosts, f"beta {public_key(hosts.beta, other)}")
    assert hosts.migrate(hosts.alpha, "redis", "beta").returncode == 0


def test_lines_that_ssh_skips_are_skipped(
    hosts: Hosts, redis: Redis[Container], known: None
) -> None:
    no_keys = ["@cert-authority beta x", "@revoked", "beta ssh-rsa AA", "|1|x|y ssh-rsa"]
    know(hosts, *no_keys, "*,!gamma ED")
    assert hosts.migrate(hosts.alpha, "redis", "beta").returncode == 0


def test_settings_that_only_ssh_knows_are_honoured(
    hosts: Hosts, redis: Redis[Container], known: None
) -> None:
    """Include, Match exec, HostKeyAlias and tokens are honoured."""
    know(hosts, "elsewhere ED")
    config = (
        "Include /root/.ssh/more\n"
        "Match originalhost rack exec 'test %n = rack'\n  HostKeyAlias elsewhere\n"
    )
    more = f"Host rack\n  HostName {hosts.beta.address}\n"
    hosts.alpha.run(["sh", "-c", "cat > /root/.ssh/config"], input=config)
    hosts.alpha.run(["sh", "-c", "cat > /root/.ssh/more"], input=more)
    assert ssh_gets_in(hosts, "rack")
    done = hosts.migrate(hosts.alpha, "redis", "rack")
    hosts.alpha.run(["rm", "/root/.ssh/more"])
    assert done.returncode == 0, done.stderr
    assert redis.on(hosts.beta).status == "running"


def test_settings_that_make_no_sense_are_refused(
    hosts: Hosts, redis: Redis[Container], known: None
) -> None:
    hosts.alpha.run(["sh", "-c", "cat > /root/.ssh/config"], input="NoSuchKeyword yes\n")
    kind, said = hosts.refused("redis", "beta")
    assert kind is errors.TargetUnreachable
    assert "nosuchkeyword" in said.lower()

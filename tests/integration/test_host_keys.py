"""Who the target is, is decided by known_hosts and ssh_config as ssh(1) reads them: tried on a real sshd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from migrate import errors
from tests.integration.conftest import REDIS_ADDRESS, Hosts
from tests.integration.test_bad_input import KNOWN_HOSTS, refused
from tests.rig import Container, Node, until

SSHD_CONFIG = "/etc/ssh/sshd_config.d/rig.conf"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
#: A certificate authority of alpha's.
AUTHORITY = (
    "cd /root && rm -f ca ca.pub && ssh-keygen -q -t ed25519 -N '' -f ca && cut -d' ' -f1,2 ca.pub"
)
CERTIFY = "ssh-keygen -q -s /root/ca -I beta -h {options} /root/beta.pub"


@pytest.fixture
def known(hosts: Hosts) -> Iterator[None]:
    """alpha's known_hosts, and beta's sshd, are afterwards what they were."""
    hosts.alpha.run(["cp", KNOWN_HOSTS, "/root/kept"])
    hosts.beta.run(["cp", SSHD_CONFIG, "/root/kept"])
    yield
    hosts.alpha.run(
        ["sh", "-c", f"mv /root/kept {KNOWN_HOSTS}; rm -f /root/ca* /root/beta* /root/.ssh/config"]
    )
    hosts.beta.run(
        ["sh", "-c", f"mv /root/kept {SSHD_CONFIG}; rm -f {HOST_KEY}-cert.pub /etc/ssh/other*"]
    )
    reload_sshd(hosts.beta)


def reload_sshd(node: Node) -> None:
    node.run(["sh", "-c", "kill -HUP $(cat /run/sshd.pid)"])
    until(
        lambda: node.run(["ssh-keyscan", "localhost"], check=False).stdout != "", "sshd to answer"
    )


def know(hosts: Hosts, *lines: str) -> None:
    """Have alpha know this alone; CA stands for its authority's key and ED for beta's."""
    authority = hosts.alpha.run(["sh", "-c", AUTHORITY]).stdout.strip()
    host = hosts.beta.run(["cut", "-d", " ", "-f", "1,2", f"{HOST_KEY}.pub"]).stdout.strip()
    text = (
        "".join(f"{line}\n" for line in lines)
        .replace(" CA", f" {authority}")
        .replace(" ED", f" {host}")
    )
    hosts.alpha.run(["sh", "-c", f"cat > {KNOWN_HOSTS}"], input=text)


def certify(hosts: Hosts, options: str) -> None:
    """Have beta show a certificate by alpha's authority."""
    public = hosts.beta.run(["cat", f"{HOST_KEY}.pub"]).stdout
    script = f"cat > /root/beta.pub && {CERTIFY.format(options=options)}"
    hosts.alpha.run(["sh", "-c", script], input=public)
    certificate = hosts.alpha.run(["cat", "/root/beta-cert.pub"]).stdout
    write = (
        f"cat > {HOST_KEY}-cert.pub && echo HostCertificate {HOST_KEY}-cert.pub >> {SSHD_CONFIG}"
    )
    hosts.beta.run(["sh", "-c", write], input=certificate)
    reload_sshd(hosts.beta)


def ssh_gets_in(hosts: Hosts, name: str = "beta") -> bool:
    """What ssh(1) makes of it."""
    return hosts.alpha.run(["ssh", "-oBatchMode=yes", name, "true"], check=False).returncode == 0


def test_a_revoked_key(hosts: Hosts, redis: Container, known: None) -> None:
    know(hosts, "beta ED", "@revoked * ED")
    assert not ssh_gets_in(hosts)
    kind, said = refused(hosts, "redis", "beta")
    assert kind is errors.RefusedHostKey
    assert "the key of beta is marked as revoked" in said


def test_a_certificate(hosts: Hosts, redis: Container, known: None) -> None:
    know(hosts, "@cert-authority be* CA")
    certify(hosts, "-n beta,10.77.0.12")
    assert ssh_gets_in(hosts)
    assert hosts.migrate(hosts.alpha, "redis", "beta").returncode == 0


@pytest.mark.parametrize(
    ("lines", "options", "kind", "why"),
    [
        (
            ["@cert-authority * CA"],
            "-n beta -V 20200101:20200102",
            errors.RefusedHostKey,
            "it has expired",
        ),
        (["@cert-authority * CA"], "-n gamma", errors.RefusedHostKey, "it is for gamma"),
        (
            ["@cert-authority * CA", "@revoked * CA"],
            "-n beta",
            errors.RefusedHostKey,
            "marked as revoked",
        ),
        (
            ["@cert-authority * CA", "@revoked * ED"],
            "-n beta",
            errors.RefusedHostKey,
            "marked as revoked",
        ),
        (["@cert-authority gamma CA"], "-n beta", errors.UnknownHostKey, "no key of beta in"),
    ],
)
def test_a_certificate_that_does_not_hold(
    hosts: Hosts,
    redis: Container,
    known: None,
    lines: list[str],
    options: str,
    kind: type[errors.MigrateError],
    why: str,
) -> None:
    know(hosts, *lines)
    certify(hosts, options)
    assert not ssh_gets_in(hosts)
    told, said = refused(hosts, "redis", "beta")
    assert told is kind
    assert why in said


def test_a_host_with_several_keys_shows_the_one_that_is_known(
    hosts: Hosts, redis: Container, known: None
) -> None:
    make = "ssh-keygen -q -t ecdsa -N '' -f /etc/ssh/other && echo HostKey /etc/ssh/other >> "
    hosts.beta.run(["sh", "-c", make + SSHD_CONFIG])
    reload_sshd(hosts.beta)
    other = hosts.beta.run(["cut", "-d", " ", "-f", "1,2", "/etc/ssh/other.pub"]).stdout.strip()
    know(hosts, f"beta {other}")
    assert hosts.migrate(hosts.alpha, "redis", "beta").returncode == 0


def test_odd_lines(hosts: Hosts, redis: Container, known: None) -> None:
    know(
        hosts,
        "@cert-authority beta x",
        "@revoked",
        "beta ssh-rsa AA",
        "|1|x|y ssh-rsa",
        "*,!gamma ED",
    )
    assert hosts.migrate(hosts.alpha, "redis", "beta").returncode == 0


def test_settings_that_only_ssh_knows(hosts: Hosts, redis: Container, known: None) -> None:
    """Include, Match exec, HostKeyAlias, tokens."""
    know(hosts, "elsewhere ED")
    config = "Include /root/.ssh/more\nMatch originalhost rack exec 'test %n = rack'\n  HostKeyAlias elsewhere\n"
    hosts.alpha.run(["sh", "-c", "cat > /root/.ssh/config"], input=config)
    hosts.alpha.run(
        ["sh", "-c", "cat > /root/.ssh/more"], input=f"Host rack\n  HostName {hosts.beta.address}\n"
    )
    assert ssh_gets_in(hosts, "rack")
    done = hosts.migrate(hosts.alpha, "redis", "rack")
    hosts.alpha.run(["rm", "/root/.ssh/more"])
    assert done.returncode == 0, done.stderr
    assert Container(node=hosts.beta, name="redis", address=REDIS_ADDRESS).status == "running"


def test_settings_that_make_no_sense(hosts: Hosts, redis: Container, known: None) -> None:
    hosts.alpha.run(["sh", "-c", "cat > /root/.ssh/config"], input="NoSuchKeyword yes\n")
    kind, said = refused(hosts, "redis", "beta")
    assert kind is errors.TargetUnreachable
    assert "NoSuchKeyword" in said.replace("nosuchkeyword", "NoSuchKeyword")

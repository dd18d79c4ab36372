"""Fixtures of the tests of transport/ssh.py: a user, and a host that the user knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.transport.ssh.user import NAME, User
from tests.unit.transport.sshd import Sshd


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


@pytest.fixture
def known(user: User) -> Sshd:
    """Return a host that the user knows, and that lets in the user's key "id"."""
    sshd = Sshd(allowed=[user.key("id")])
    user.known_hosts.write_text(sshd.line(NAME))
    return sshd

"""Tests of checkpoint/criu/roles.py: the instants of a conversation that others wait for."""

import threading
from pathlib import Path

import pytest

from checkpoint.criu.roles import MAKING_TASKS, Edits, RestoreRole

TIMEOUT_S = 20.0


@pytest.fixture
def role(tmp_path: Path) -> RestoreRole:
    return RestoreRole(Edits(nftables=True, one_cgroup=True), tmp_path)


def waiter(role: RestoreRole) -> threading.Thread:
    """Start a thread that waits until CRIU makes the tasks, and return the thread."""
    thread = threading.Thread(target=role.wait_making_tasks, args=(TIMEOUT_S,), daemon=True)
    thread.start()
    return thread


def test_digests_begin_when_criu_goes_on_and_not_when_it_says_so(role: RestoreRole) -> None:
    """Between the two the runtime answers the notification, and must not wait for a processor."""
    thread = waiter(role)
    for script in ("pre-restore", "setup-namespaces"):
        assert role.notify(script, 0)
        role.went_on()
    assert role.notify(MAKING_TASKS, 0)
    thread.join(0.05)
    assert thread.is_alive()
    role.went_on()
    thread.join(TIMEOUT_S / 2)
    assert not thread.is_alive()


def test_digests_begin_at_the_latest_when_the_tasks_are_made(role: RestoreRole) -> None:
    """A runtime that asked for no notifications gets none, so CRIU does not go on from them."""
    thread = waiter(role)
    role.done_gate.open()
    assert role.notify("post-restore", 7)
    thread.join(TIMEOUT_S / 2)
    assert not thread.is_alive()
    assert role.pid == 7

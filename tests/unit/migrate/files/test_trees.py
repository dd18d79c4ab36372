"""Tests of migrate/files/trees.py: a tree follows its source, by real programs on this host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint.errors import CommandFailed, ReceiverFailed
from checkpoint.files.rsync import PARTIAL, STREAM_BROKE, UNKNOWN, Ending, Rsync
from migrate.files.trees import TRIES, tried
from migrate.wire.failures import AgentGone
from tests.unit.helpers.joined import Joined, root_state
from tests.unit.migrate.files.hosts import CHANGES, Change, Hosts, settle


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_root_of_a_tree_follows(hosts: Hosts, change: Change, frozen: bool) -> None:
    (hosts.source / "file").write_text("old")
    (hosts.source / "large").write_bytes(os.urandom(1 << 20))
    settle(hosts.source)
    sync = hosts.sync()
    sync.copy_whole()
    assert root_state(hosts.place) == root_state(hosts.source)
    change(hosts.source)
    sync.arm()
    sent = sync.copy_changes(()) if frozen else sync.catch_up()
    assert root_state(hosts.place) == root_state(hosts.source)
    assert sorted(os.listdir(hosts.place)) == sorted(os.listdir(hosts.source))
    assert sent < 1 << 20, "what did not change was sent again"


@pytest.fixture
def layer(hosts: Hosts, tmp_path: Path) -> Path:
    """Return the upper directory of an overlay that is the source."""
    layers = tmp_path / "layers"
    layers.mkdir()
    hosts.mount("-t", "tmpfs", "test", at=layers)
    for name in ("lower", "upper", "work"):
        (layers / name).mkdir()
    for root in (layers / "lower", hosts.place):
        (root / "file").write_text("of the image")
        root.chmod(0o755)
    where = f"lowerdir={layers / 'lower'},upperdir={layers / 'upper'},workdir={layers / 'work'}"
    hosts.mount("-t", "overlay", "-o", where, "test", at=hosts.source)
    return layers / "upper"


@pytest.mark.parametrize("overlay", [False, True])
@pytest.mark.parametrize("passes", [1, TRIES - 1, TRIES])
def test_a_first_pass_that_is_partial_is_tried_again(
    hosts: Hosts, layer: Path, overlay: bool, passes: int
) -> None:
    (hosts.source / "new").write_text("of the container")
    (hosts.source / "file").unlink()
    sync = hosts.sync(layer if overlay else None)
    hosts.partial = passes
    if passes == TRIES:
        with pytest.raises(ReceiverFailed):
            sync.copy_whole()
    else:
        sync.copy_whole()
        assert (hosts.place / "new").read_text() == "of the container"
        assert os.listdir(hosts.place) == ["new"]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_root_of_an_overlay_follows(hosts: Hosts, layer: Path, change: Change) -> None:
    hosts.source.chmod(0o700)
    settle(hosts.source)
    sync = hosts.sync(layer)
    sync.copy_whole()
    assert root_state(hosts.place) == root_state(hosts.source)
    change(hosts.source)
    sync.arm()
    sync.copy_changes(())
    assert root_state(hosts.place) == root_state(hosts.source)
    assert os.listdir(hosts.place) == os.listdir(hosts.source)


def test_a_tree_that_the_target_has_lost_is_copied_again(hosts: Hosts, layer: Path) -> None:
    (hosts.source / "new").write_text("of the container")
    sync = hosts.sync(layer)
    sync.copy_whole()
    sync.arm()
    (hosts.place / "new").unlink()
    assert sync.copy_again() > 0
    assert (hosts.place / "new").read_text() == "of the container"
    assert (hosts.place / "file").read_text() == "of the image"


class Agent:
    """An agent whose connection a test loses: `renewed` counts how often it was made anew."""

    def __init__(self) -> None:
        self.renewed = 0
        self.asked = 0
        self.error: Exception | None = None

    def is_renewed(self, before: int) -> bool:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.renewed != before


#: A pass as it ends: its status, and whether the connection was lost in it and made anew.
Pass = tuple[int, bool]
SOME, LOST, FAILED, WELL = (PARTIAL, False), (STREAM_BROKE, True), (STREAM_BROKE, False), (0, False)


def passes_of(agent: Agent, *passes: Pass) -> Callable[[], int]:
    """Return a copy of a tree that is made by these passes, one at each call.

    It returns the number of the pass that ended well.
    """
    left = list(passes)

    def copy() -> int:
        status, lost = left.pop(0)
        agent.renewed += lost
        if status:
            raise CommandFailed(["rsync"], status, f"pass {len(passes) - len(left)}")
        return len(passes) - len(left)

    return copy


@pytest.mark.parametrize(
    "passes",
    [
        [WELL],
        [LOST, WELL],
        [LOST, LOST, LOST, LOST, LOST, WELL],
        [SOME, SOME, WELL],
        [SOME, LOST, LOST, SOME, WELL],
        [(PARTIAL, True), (PARTIAL, True), WELL],
    ],
)
def test_a_pass_is_made_again_if_the_connection_was_lost_in_it(passes: list[Pass]) -> None:
    agent: Any = Agent()
    assert tried(agent, passes_of(agent, *passes)) == len(passes)
    assert agent.asked == passes.count(LOST)


@pytest.mark.parametrize(
    "passes",
    [
        [FAILED],
        [LOST, FAILED],
        [LOST, SOME, FAILED],
        [(UNKNOWN, False)],
        [SOME, SOME, SOME],
        [SOME, LOST, SOME, LOST, SOME],
        [(PARTIAL, True), (PARTIAL, True), (PARTIAL, True)],
    ],
)
def test_a_pass_that_fails_is_not_made_again_for_an_earlier_loss(passes: list[Pass]) -> None:
    agent: Any = Agent()
    with pytest.raises(CommandFailed, match=f"pass {len(passes)}"):
        tried(agent, passes_of(agent, *passes, WELL))


def test_an_agent_that_is_gone_is_told_in_place_of_the_pass() -> None:
    agent: Any = Agent()
    agent.error = AgentGone("it could not be made again", "", None)
    with pytest.raises(AgentGone):
        tried(agent, passes_of(agent, LOST, WELL))


class Cuts:
    """Losses of the connection between both hosts: `left` passes from now on break off."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self.left = 0

    def rsync(self, tree: int, key: str | None) -> Rsync:
        """Return an rsync to the target, in place of that of `hosts`."""
        joined = Joined(self._hosts.source, self._hosts.place)
        self._hosts.tidy.enter_context(contextlib.closing(joined))

        def carry(words: Any, from_rsync: int, to_rsync: int, answered: Any) -> Ending:
            if not self.left:
                return joined.carry(words, from_rsync, to_rsync, answered)
            self.left -= 1
            self._hosts.target.renewed += 1
            os.close(to_rsync)
            os.close(from_rsync)
            return Ending(status=UNKNOWN, complaint="the link broke")

        return Rsync(tree, carry)

    def is_renewed(self, before: int) -> bool:
        return self._hosts.target.renewed != before


@pytest.fixture
def cuts(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Cuts:
    cuts = Cuts(hosts)
    monkeypatch.setattr(hosts, "rsync", cuts.rsync)
    monkeypatch.setattr(hosts.target, "is_renewed", cuts.is_renewed, raising=False)
    return cuts


@pytest.mark.parametrize("overlay", [False, True])
def test_a_tree_follows_its_source_although_the_connection_is_lost(
    hosts: Hosts, layer: Path, cuts: Cuts, overlay: bool
) -> None:
    (hosts.source / "new").write_text("of the container")
    (hosts.source / "file").unlink()
    sync = hosts.sync(layer if overlay else None)
    cuts.left = TRIES
    sync.copy_whole()
    assert os.listdir(hosts.place) == ["new"]
    assert (hosts.place / "new").read_text() == "of the container"
    (hosts.source / "new").write_text("once more")
    (hosts.source / "newer").touch()
    cuts.left = TRIES
    sync.arm()
    sync.catch_up()
    assert (cuts.left, sorted(os.listdir(hosts.place))) == (0, ["new", "newer"])
    assert (hosts.place / "new").read_text() == "once more"

"""Tests of migrate/files/trees.py: a tree follows its source, by real programs on this host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint.errors import ReceiverFailed
from migrate.files.trees import TRIES
from tests.unit.helpers.joined import root_state
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

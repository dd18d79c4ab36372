"""Tests of migrate/agent/received.py: the agent takes in what a restore needs, and no more."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from checkpoint.errors import ImageError
from checkpoint.host import ram_directory
from migrate.agent.received import LEAST_EXTENTS, Received
from migrate.files.tree_door import TreeDoor
from migrate.wire import protocol
from migrate.wire.values import MapExtent

MIGRATION = "0123456789ab"
EXTENTS = tuple(MapExtent(page << 13, 1, True) for page in range(1023))
PAGE_MAP = protocol.PageMap(dst_id=0x101, extents=EXTENTS)


@pytest.mark.parametrize("room_bytes", [1 << 20, LEAST_EXTENTS * 4096 * 2])
def test_no_more_page_maps_are_kept_than_pages_have_room(
    room_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ram_directory, "RUN", tmp_path / "run")
    (tmp_path / "run").mkdir()
    request = protocol.Prepare(shared=False, network=None, room_bytes=room_bytes, page_channels=1)
    room = max(LEAST_EXTENTS, room_bytes // 4096)
    with contextlib.ExitStack() as tidy:
        agent = Received(MIGRATION, request, TreeDoor(tmp_path / "trees"), tidy, print, batch_s=1.0)
        for _ in range(room // (len(EXTENTS) + 1)):
            assert list(agent.handle(PAGE_MAP)) == [protocol.Done()]
        with pytest.raises(ImageError, match="more ranges of pages"):
            agent.handle(PAGE_MAP)

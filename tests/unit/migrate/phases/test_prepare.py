"""Tests of migrate/phases/prepare.py: trees, the container image, and page channels."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.engines.base import Tree
from checkpoint.host import processes
from migrate.options import Options
from migrate.phases import prepare

TUNNEL: Any = "tunnel"


class Copied:
    """A copy of a tree in place of TreeSync. It brings 100 bytes."""

    made: list[Tree]

    def __init__(self, tree: Tree, tunnel: Any, agent: Any, mapped: Any) -> None:
        self.tree, self.mapped = tree, mapped
        self.kind = "rootfs" if tree.destination == "/" else "volumes"
        self.closed = 0

    def copy_whole(self) -> int:
        return 100

    def close(self) -> None:
        self.closed += 1


def move(*, shared: bool = False, layers: frozenset[str] | None = None) -> Any:
    """Return a migration of a container with a rootfs and two volumes."""
    trees = [Tree(destination=name, root=Path("/x")) for name in ("/", "/a", "/b")]
    counted: dict[str, int] = {}
    notes: list[str] = []

    def add_bytes(kind: str, count: int) -> None:
        counted[kind] = counted.get(kind, 0) + count

    return SimpleNamespace(
        source=SimpleNamespace(
            container=SimpleNamespace(trees=trees, pid=1),
            engine="engine",
            facts=SimpleNamespace(encodings=("zstd", "raw")),
        ),
        target=SimpleNamespace(
            shared_rootfs=shared,
            layers_there=layers,
            agent=SimpleNamespace(renewed=0),
            facts=SimpleNamespace(encodings=("raw",)),
            link="connection",
        ),
        report=SimpleNamespace(add_bytes=add_bytes, counted=counted),
        tidy=contextlib.ExitStack(),
        note=notes.append,
        notes=notes,
        migration_id="0123456789ab",
        options=Options(reconnect_s=0),
        limit="limit",
    )


@pytest.fixture(autouse=True)
def copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "TreeSync", Copied)


def test_trees_for_which_there_is_a_place_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    migration = move()
    found: Any = prepare.copy_trees(migration, TUNNEL, ["/", "/b", "/other"])
    assert list(found) == ["/", "/b"]
    assert migration.report.counted == {"rootfs": 100, "volumes": 100}
    monkeypatch.setattr(processes, "tree_of", lambda pid: [pid, 7])
    monkeypatch.setattr(prepare, "written_through_mappings", set)
    assert found["/"].mapped() == {1, 7}, "files that its processes have mapped"
    migration.tidy.close()
    assert [copy.closed for copy in found.values()] == [1, 1]


def test_a_tree_that_both_hosts_see_is_not_copied() -> None:
    migration = move(shared=True)
    assert prepare.copy_trees(migration, TUNNEL, ["/"]) == {}
    assert migration.report.counted == {}


@pytest.mark.parametrize("layers", [None, frozenset({"1a", "2b"})])
def test_an_image_is_sent_if_it_is_not_there(
    monkeypatch: pytest.MonkeyPatch, layers: frozenset[str] | None
) -> None:
    asked: list[Any] = []

    def send_image(*how: Any) -> int:
        asked.append(how)
        return 4096

    monkeypatch.setattr(prepare, "send_image", send_image)
    migration = move(layers=layers)
    prepare.send_missing_image(migration, "tunnel")  # type: ignore[arg-type]
    container = migration.source.container
    if layers is None:
        assert (asked, migration.notes, migration.report.counted) == ([], [], {})
    else:
        assert asked == [("engine", container, layers, migration.target.agent, "tunnel")]
        assert "2 of its layers are there" in migration.notes[0]
        assert migration.report.counted == {"image": 4096}


def test_pages_are_encoded_as_both_hosts_can(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def open_streams(*how: Any) -> list[str]:
        opened.append(how)
        return ["stream"]

    monkeypatch.setattr(prepare, "open_streams", open_streams)
    monkeypatch.setattr(prepare, "PageChannels", lambda *parts: parts)
    monkeypatch.setattr(prepare, "EncodingChoice", list)
    found: Any = prepare.open_page_channels(move(), 3)
    assert found == (["stream"], ["raw"], "limit", None)
    assert opened[0][0] == "connection"
    assert opened[0][2] == 3

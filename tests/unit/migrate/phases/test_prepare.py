"""Tests of migrate/phases/prepare.py: trees, the container image, and page channels."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.engines.base import Tree
from checkpoint.host import processes
from migrate.agent.plug_command import channel_path
from migrate.limits import Limits
from migrate.memory.receiver import socket_path
from migrate.options import Options
from migrate.phases import prepare
from migrate.phases.prepare import PageLink
from migrate.wire import protocol
from transport.errors import ConnectError, IncompleteFrame

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


class Agent:
    """The target's agent, whose connection a test loses, with all that it is asked."""

    def __init__(self) -> None:
        self.renewed = 0
        self.asked: list[Any] = []

    def outlast(self, *parts: Any) -> None:
        self.asked.append(parts)

    def is_renewed(self, before: int) -> bool:
        return self.renewed != before

    def request(self, message: Any) -> protocol.BatchesThere:
        self.asked.append(message)
        return protocol.BatchesThere(in_place=7, beyond=(9,))


def lasting(reconnect_s: int = 60) -> Any:
    """Return a migration that goes on when its connection was lost."""
    migration = move()
    migration.target.agent = Agent()
    migration.options = Options(reconnect_s=reconnect_s, limits=Limits(silence_s=20.0))
    return migration


def test_the_agent_waits_longer_for_the_source_than_the_source_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prepare, "WayBack", lambda *parts: parts)
    migration = lasting()
    prepare.outlast(migration)
    way_back = ("connection", channel_path("0123456789ab"), 60, migration.note)
    assert migration.target.agent.asked == [(way_back, 80)]


def test_no_connection_is_outlasted_if_the_user_will_not() -> None:
    migration = lasting(reconnect_s=0)
    prepare.outlast(migration)
    assert migration.target.agent.asked == []


class Streams:
    """What opens streams for an agent, in place of open_streams; first, some `failures`.

    With each of them the connection is lost. `back` says whether it is made anew.
    """

    def __init__(self, agent: Agent, *failures: Exception, back: bool = True) -> None:
        self._agent, self._failures, self._back = agent, list(failures), back
        self.opened: list[Any] = []

    def open(self, *how: Any) -> list[str]:
        self._agent.asked.append("streams")
        self.opened.append(how)
        if self._failures:
            self._agent.renewed += self._back
            raise self._failures.pop(0)
        return ["stream"]


BROKE = IncompleteFrame("the link broke")


def test_channels_are_opened_again_if_the_connection_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    migration = lasting()
    streams = Streams(migration.target.agent, BROKE, BROKE)
    monkeypatch.setattr(prepare, "open_streams", streams.open)
    link: Any = PageLink(migration, 3)
    assert link.streams() == ["stream"]
    assert streams.opened == [("connection", socket_path("0123456789ab"), 3)] * 3


@pytest.mark.parametrize(
    ("failures", "back"), [([BROKE], False), ([ConnectError("a defect")], True)]
)
def test_channels_are_not_opened_again_for_another_reason(
    monkeypatch: pytest.MonkeyPatch, failures: list[Exception], back: bool
) -> None:
    migration = lasting()
    migration.target.agent.renewed = 1
    streams = Streams(migration.target.agent, *failures, back=back)
    monkeypatch.setattr(prepare, "open_streams", streams.open)
    with pytest.raises(type(failures[0])):
        PageLink(migration, 3).streams()
    assert len(streams.opened) == 1


def test_new_channels_are_opened_when_the_target_has_let_go_of_the_old_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    migration = lasting()
    agent = migration.target.agent
    streams = Streams(agent, BROKE)
    monkeypatch.setattr(prepare, "open_streams", streams.open)
    link: Any = PageLink(migration, 3)
    assert link.renew() == (["stream"], protocol.BatchesThere(in_place=7, beyond=(9,)))
    assert agent.asked == [protocol.RenewPages(), "streams", "streams"]
    assert len(migration.notes) == 1


def test_channels_are_renewed_by_a_way_that_knows_of_new_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    migration = lasting()
    monkeypatch.setattr(prepare, "open_streams", Streams(migration.target.agent).open)
    monkeypatch.setattr(prepare, "PageChannels", lambda *parts: parts)
    monkeypatch.setattr(prepare, "EncodingChoice", list)
    found: Any = prepare.open_page_channels(migration, 3)
    assert found == (["stream"], ["raw"], "limit", PageLink(migration, 3))
    assert found[3].renewed == 0
    migration.target.agent.renewed += 1
    assert found[3].renewed == 1

"""Tests of checkpoint/engines/belongings.py: the volumes and networks that a container uses."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.engines import belongings, left_behind, made
from checkpoint.engines.base import Tree
from checkpoint.engines.belongings import SHM, Belongings
from checkpoint.engines.docker import api
from checkpoint.engines.docker.engine import Docker
from checkpoint.engines.podman.engine import Podman
from checkpoint.errors import (
    CommandFailed,
    EngineRefused,
    NotMovable,
)
from checkpoint.undo import Undo
from tests.unit.helpers.engines import podman_that
from tests.unit.helpers.obedient import Child

pytestmark = pytest.mark.usefixtures("no_engines")


def test_volumes_that_cannot_be_recorded_are_told_of(tmp_path: Path) -> None:
    podman_that(tmp_path, "echo 'Error: database is locked' >&2", "exit 125")
    mount = {"Type": "volume", "Name": "data", "Destination": "/data"}
    with pytest.raises(EngineRefused, match="database is locked"):
        made.LeavingVolume(engine="podman", name=mount["Name"]).remove()


def container_with(*, volume: bool) -> Any:
    mount = {"Type": "volume", "Name": "data", "Destination": "/data"}
    found = {
        **dict.fromkeys(("Config", "Image", "ImageName", "Name", "OCIRuntime"), "x"),
        "HostConfig": {"NetworkMode": "bridge", "RestartPolicy": {"Name": ""}},
        "NetworkSettings": {"Networks": {} if volume else {"net": {}}},
        "State": {"CgroupPath": "/x"},
        "Mounts": [mount] if volume else [],
    }
    return SimpleNamespace(id="1f", log=None, descriptors=(), engine_state=found)


@pytest.mark.parametrize("engine", [Podman, Docker])
def test_what_the_container_uses_and_the_engine_has_no_more_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: type[Podman | Docker]
) -> None:
    podman_that(tmp_path, "exit 1")
    lists: dict[str, Any] = {"/containers/json": []}
    monkeypatch.setattr(api, "call", lambda _, path, **__: lists.get(path))
    with pytest.raises(EngineRefused, match="has no volume 'data' any more"):
        engine().describe(container_with(volume=True))
    with pytest.raises(EngineRefused, match="has no network 'net' any more"):
        engine().describe(container_with(volume=False))


class OfTwo:
    """A Store that has one volume, `data`, which two containers use."""

    def network(self, name: str) -> dict[str, Any]:
        return {"name": name}

    def volume(self, name: str) -> dict[str, Any]:
        return {"Name": name, "Driver": "local"}

    def users(self, name: str) -> set[str]:
        return {"1f", "2e" * 32}


def test_a_container_whose_volume_another_one_uses_cannot_be_moved() -> None:
    found = {"Id": "1f", "Mounts": [{"Type": "volume", "Name": "data", "Destination": "/data"}]}
    store: Any = OfTwo()
    with pytest.raises(NotMovable, match="volume 'data' is also used by container 2e2e2e2e2e2e"):
        belongings.described("podman", store, found, [])
    store.users = lambda _: {"1f"}
    assert belongings.described("podman", store, found, [])["volumes"] == {
        "/data": {"Name": "data", "Driver": "local"}
    }


NETWORK_ID = "0123456789abcdef"
NETWORK = {"name": "net", "subnet": "10.1.0.0/24"}
VOLUME = {"Name": "data", "Driver": "local"}


class Store:
    """A store in memory, but for the content of volumes. Each volume has a time of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._times = itertools.count()
        self.networks: dict[str, dict[str, Any]] = {}
        self.ids: dict[str, str] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.used: set[str] = set()
        self.pid = 0
        self.removed: list[str] = []
        self.images: dict[str, dict[str, Any]] = {}

    def network(self, name: str) -> dict[str, Any] | None:
        return self.networks.get(self.ids.get(name, name))

    def difference(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
        return None if ours["subnet"] == theirs["subnet"] else "subnet"

    def create_network(self, wanted: Mapping[str, Any]) -> str:
        self.networks[wanted["name"]] = dict(wanted)
        self.ids[NETWORK_ID] = wanted["name"]
        return NETWORK_ID

    def remove_network(self, network_id: str) -> None:
        del self.networks[self.ids[network_id]]

    def pid_of(self, container_id: str) -> int | None:
        return self.pid

    def remove_container(self, container_id: str) -> None:
        self.removed.append(container_id)

    def set_restart_policy(self, container_id: str, policy: str) -> None:
        raise NotImplementedError

    def own_end(self, container_id: str) -> int | None:
        raise NotImplementedError

    def starts_at_boot(self, container_id: str, policy: str) -> bool:
        raise NotImplementedError

    def start_container(self, container_id: str) -> None:
        raise NotImplementedError

    def volume(self, name: str) -> dict[str, Any] | None:
        return self.volumes.get(name)

    def users(self, name: str) -> set[str]:
        return self.used

    def create_volume(self, wanted: Mapping[str, Any]) -> Path:
        root = self._directory / str(wanted["Name"])
        if wanted["Driver"] == "local":
            root.mkdir()
        created = f"2024-01-01T00:00:{next(self._times):02}Z"
        self.volumes[wanted["Name"]] = {**wanted, "Mountpoint": str(root), "CreatedAt": created}
        return root

    def remove_volume(self, name: str) -> None:
        del self.volumes[name]

    def image(self, name: str) -> dict[str, Any] | None:
        return self.images.get(name)


@pytest.fixture
def in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(left_behind, "RECORDS", tmp_path / "records")
    (tmp_path / "volumes").mkdir()
    store = Store(tmp_path / "volumes")
    monkeypatch.setitem(made.STORES, "podman", store)
    return store


def wanted(in_memory: Store, *, driver: str = "local") -> Belongings:
    """Return the belongings of an incoming container: a network, and a volume at two places."""
    volume = {**VOLUME, "Driver": driver}
    return Belongings("podman", in_memory, {"net": NETWORK}, {"/a": volume, "/b": volume})


def found(*mounts: dict[str, Any]) -> dict[str, Any]:
    """Return a container as an engine describes it."""
    return {"Id": "1f", "Mounts": list(mounts)}


def mount(**changes: Any) -> dict[str, Any]:
    plain = {"Type": "volume", "Name": "data", "Driver": "local", "Destination": "/data"}
    return {**plain, "Source": "/volumes/data", **changes}


# --- on the target -------------------------------------------------------------------------------


def test_what_is_made_is_removed_with_the_move(in_memory: Store, tmp_path: Path) -> None:
    with Undo() as undo:
        arriving = wanted(in_memory)
        assert arriving.volumes() == ["data"]
        roots = arriving.make(undo)
        assert roots == {"/a": tmp_path / "volumes/data", "/b": tmp_path / "volumes/data"}
        assert in_memory.networks == {"net": NETWORK}
    assert (in_memory.networks, in_memory.volumes) == ({}, {})


def test_what_is_there_is_used_and_stays(in_memory: Store, tmp_path: Path) -> None:
    in_memory.networks["net"] = NETWORK
    in_memory.create_volume(VOLUME)
    left_behind.note("podman", "data", in_memory.volumes["data"]["CreatedAt"])
    with Undo() as undo:
        assert set(wanted(in_memory).make(undo).values()) == {tmp_path / "volumes/data"}
    assert in_memory.networks.keys() | in_memory.volumes.keys() == {"net", "data"}


@pytest.mark.parametrize("driver", ["local", "nfs"])
def test_a_volume_that_has_the_name_again_stays(in_memory: Store, driver: str) -> None:
    """A volume is known by its time of creation and, if that is in seconds, by its directory."""
    with Undo() as undo:
        wanted(in_memory, driver=driver).make(undo)
        first = in_memory.volumes.pop("data")
        shutil.rmtree(first["Mountpoint"], ignore_errors=True)
        in_memory.create_volume({**VOLUME, "Driver": driver})
        if driver == "local":
            in_memory.volumes["data"]["CreatedAt"] = first["CreatedAt"]
    assert "data" in in_memory.volumes


def test_a_volume_that_is_gone_already_is_no_error(in_memory: Store) -> None:
    with Undo() as undo:
        wanted(in_memory).make(undo)
        in_memory.volumes.clear()


def test_a_volume_that_somebody_uses_by_now_stays(in_memory: Store) -> None:
    with Undo() as undo:
        wanted(in_memory).make(undo)
        in_memory.used = {"2e"}
    assert "data" in in_memory.volumes


def test_another_network_of_the_name_is_an_objection(in_memory: Store) -> None:
    in_memory.networks["net"] = {**NETWORK, "subnet": "10.9.0.0/24"}
    said = "podman's network 'net' is another one there: its subnet is '10.9.0.0/24'"
    assert list(wanted(in_memory).objections()) == [said]
    with Undo() as undo, pytest.raises(EngineRefused, match="is another one there"):
        wanted(in_memory).make(undo)
    assert in_memory.volumes == {}, "nothing was made before"


def test_a_volume_of_somebody_else_is_an_objection(in_memory: Store) -> None:
    in_memory.create_volume(VOLUME)
    said = ["podman's volume 'data' is there already, and no move has left it"]
    assert list(wanted(in_memory).objections()) == said * 2
    left_behind.note("podman", "data", "1999-01-01T00:00:00Z")
    assert list(wanted(in_memory).objections()) == said * 2, "that was an earlier one of the name"
    left_behind.note("podman", "data", in_memory.volumes["data"]["CreatedAt"])
    assert list(wanted(in_memory).objections()) == []
    in_memory.used = {"2e"}
    said = ["podman's volume 'data' is used there by another container"]
    assert list(wanted(in_memory).objections()) == said * 2


def test_a_volume_that_is_used_again_was_not_left(in_memory: Store) -> None:
    in_memory.create_volume(VOLUME)
    created = in_memory.volumes["data"]["CreatedAt"]
    left_behind.note("podman", "data", created)
    left_behind.note("docker", "data", created)
    with Undo() as undo:
        wanted(in_memory).make(undo)
        undo.settle()
    assert not left_behind.is_noted("podman", "data", created)
    assert left_behind.is_noted("docker", "data", created)


# --- on the source -------------------------------------------------------------------------------


def test_volumes_that_the_target_has_are_noted(in_memory: Store) -> None:
    in_memory.create_volume(VOLUME)
    gone = mount(Name="gone", Destination="/gone")
    bind = mount(Type="bind", Name=None, Destination="/bind")
    container: Any = SimpleNamespace(id="1f", engine_state=found(mount(), gone, bind))
    first, *volumes = made.remaining("podman", container)
    assert first == made.LeavingContainer(engine="podman", id="1f")
    for thing in volumes:
        thing.remove()
    assert left_behind.is_noted("podman", "data", in_memory.volumes["data"]["CreatedAt"])
    assert not left_behind.is_noted("podman", "gone", "")


@pytest.mark.parametrize(("runs", "removed"), [(True, []), (False, ["1f"])])
def test_a_container_that_came_back_is_not_removed(
    in_memory: Store, child: Child, runs: bool, removed: list[str]
) -> None:
    """podman's containers keep their ids when they move."""
    in_memory.pid = child.pid
    if not runs:
        child.end()
    made.LeavingContainer(engine="podman", id="1f").remove()
    assert in_memory.removed == removed


def test_trees_are_what_has_a_directory_on_the_host() -> None:
    local = mount(Destination="/a")
    others = (
        mount(Type="bind"),
        mount(Name=""),
        mount(Driver="nfs"),
        mount(Source=""),
        mount(Type="tmpfs"),
    )
    beneath: Any = SimpleNamespace(bind_mounts={})
    trees = [Tree(destination="/a", root=Path("/volumes/data"))]
    assert belongings.trees_of(found(local, *others), beneath) == trees
    beneath.bind_mounts[SHM] = {"source": "/run/shm"}
    trees.append(Tree(destination=SHM, root=Path("/run/shm")))
    assert belongings.trees_of(found(local, *others), beneath) == trees


def test_the_layers_of_an_image_that_is_not_there_are_none(in_memory: Store) -> None:
    in_memory.images["x"] = {"RootFS": {"Layers": ["sha256:1", "sha256:2"]}}
    in_memory.images["empty"] = {"RootFS": {"Layers": None}}
    names = ("x", "empty", "none")
    assert [belongings.layers_of(in_memory, name) for name in names] == [
        ["sha256:1", "sha256:2"],
        [],
        [],
    ]


def test_what_an_engines_command_says_is_kept(tmp_path: Path) -> None:
    for words in ("one", "two"):
        argv = ["sh", "-c", f"echo $WORD {words} >&2"]
        belongings.start_logged(argv, tmp_path, {"PATH": "/bin", "WORD": "said"}).wait(20)
    assert (tmp_path / "engine.log").read_text() == "said one\nsaid two\n"
    with pytest.raises(CommandFailed, match="No such file"):
        belongings.start_logged(["no-such-engine"], tmp_path)

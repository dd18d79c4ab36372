"""migrate/phases/preflight.py: what is asked of the target, and which answer refuses the container."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.host import lock, processes
from migrate import errors
from migrate.phases import preflight
from migrate.wire import protocol
from migrate.wire.protocol import ProtocolError
from migrate.wire.values import PROBE_PREFIX, OwnAddress, Station
from tests.unit.obedient import Child


class Agent:
    """The target's agent, with one answer; what it is asked is kept."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.asked: list[Any] = []

    def request(self, message: Any) -> Any:
        self.asked.append(message)
        return self._answer(message) if callable(self._answer) else self._answer


# --- which engine ----------------------------------------------------------------------------------


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has these engines that own the container, and reasons why others could not be asked."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(lock, "DIRECTORY", tmp_path / "locks")

    def own(*names: str, **silent: str) -> None:
        found = [SimpleNamespace(name=name) for name in names]
        monkeypatch.setattr(preflight, "owners_of", lambda _: (found, silent))

    own()
    return own


def test_the_engine_that_has_it(engines: Callable[..., None]) -> None:
    engines("podman")
    assert preflight.choose_engine(None, "web").name == "podman"
    assert preflight.choose_engine("runc", "web").name == "runc", "as the user has said"


def test_nobody_has_it(engines: Callable[..., None]) -> None:
    engines(docker="docker does not answer")
    with pytest.raises(errors.NoSuchContainer, match=r"podman.*; docker does not answer"):
        preflight.choose_engine(None, "web")
    with pytest.raises(errors.NoSuchContainer):
        preflight.choose_engine(None, "w\neb")


def test_several_have_it(engines: Callable[..., None]) -> None:
    engines("podman", "runc")
    with pytest.raises(errors.SeveralContainers, match="podman"):
        preflight.choose_engine(None, "web")


@pytest.mark.parametrize("engine", [None, "runc"])
def test_another_task_has_it(engines: Callable[..., None], engine: str | None) -> None:
    engines("runc")
    with lock.locked([lock.name_key("runc", "web")], "another move"):
        with pytest.raises(errors.AlreadyMoving, match="another move"):
            preflight.choose_engine(engine, "web")
        assert preflight.choose_engine("crun", "web").name == "crun"


# --- processes -------------------------------------------------------------------------------------


def test_what_exec_has_started_is_noted_once(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    other, ended = Child(), Child()
    ended.end()
    pids = [child.pid, other.pid, ended.pid]
    monkeypatch.setattr(processes, "in_pid_namespace_of", lambda _: pids)
    monkeypatch.setattr(processes, "age_s", lambda pid: 5.0)
    notes: list[str] = []
    migration: Any = SimpleNamespace(
        source=SimpleNamespace(container=SimpleNamespace(pid=child.pid)),
        report=SimpleNamespace(notes=notes),
        note=notes.append,
    )
    for _ in range(2):
        preflight.note_exec_processes(migration)
    assert len(notes) == 1
    assert notes[0].startswith(f"process {other.pid} (")
    notes.clear()
    monkeypatch.setattr(processes, "age_s", lambda pid: 0.5)
    preflight.note_exec_processes(migration)
    assert notes == [], "a health check passes"
    other.end()


def test_a_file_that_criu_cannot_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = SimpleNamespace(pid=7, fd=3, path="/srv/file")
    container: Any = SimpleNamespace(pid=1)
    monkeypatch.setattr(processes, "open_outside", lambda *_: [])
    preflight.check_open_files(container, [7])
    monkeypatch.setattr(processes, "open_outside", lambda *_: [outside])
    with pytest.raises(errors.OpenFileOutside, match="/srv/file"):
        preflight.check_open_files(container, [7])


def test_limits_that_cannot_be_read(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Child()
    ended.end()
    preflight.check_limits([child.pid, ended.pid])

    def refused(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(resource, "prlimit", refused)
    with pytest.raises(errors.NotMovableError, match="CAP_SYS_RESOURCE"):
        preflight.check_limits([child.pid])


# --- the target ------------------------------------------------------------------------------------

ADDRESSES = (OwnAddress("10.1.0.2", "02:00:00:00:00:01", "br0"),)


def test_an_address_that_another_station_has() -> None:
    agent: Any = Agent(protocol.AddressesFound(taken=()))
    preflight.check_addresses(agent, (), "beta")
    assert agent.asked == [], "there is nothing to ask"
    preflight.check_addresses(agent, ADDRESSES, "beta")
    assert agent.asked == [protocol.CheckAddresses(addresses=ADDRESSES)]
    taken = protocol.AddressesFound(taken=(Station("10.1.0.2", "02:00:00:00:00:09"),))
    with pytest.raises(errors.AddressTaken, match=r"10\.1\.0\.2.*02:00:00:00:00:09"):
        preflight.check_addresses(Agent(taken), ADDRESSES, "beta")  # type: ignore[arg-type]
    other = protocol.AddressesFound(taken=(Station("10.1.0.3", "02:00:00:00:00:09"),))
    with pytest.raises(ProtocolError):
        preflight.check_addresses(Agent(other), ADDRESSES, "beta")  # type: ignore[arg-type]


def container(root: Path, *, engine: bool = False, **paths: bool) -> Any:
    """A container whose rootfs is there, with bind mounts of /srv/NAME, writable or not."""
    (root / "rootfs").mkdir(exist_ok=True)
    return SimpleNamespace(
        name="web",
        bundle=root,
        rootfs=root / "rootfs",
        engine_network=engine,
        host_paths=tuple((f"/srv/{name}", writable) for name, writable in paths.items()),
    )


def checked(agent: Agent, found: Any) -> bool:
    return preflight.check_paths(agent, found, "beta")  # type: ignore[arg-type]


def answer(**words: Any) -> protocol.PathsFound:
    return protocol.PathsFound(**{"missing": (), "taken": (), "shared": False, **words})


def test_a_rootfs_that_both_hosts_see(tmp_path: Path) -> None:
    """The target finds a secret in it, which is gone afterwards."""

    def look(message: protocol.CheckPaths) -> protocol.PathsFound:
        assert message.probe is not None
        place = Path(message.probe.path)
        assert place.name.startswith(PROBE_PREFIX)
        assert place.parent == tmp_path / "rootfs"
        return answer(shared=place.read_text() == message.probe.token)

    agent = Agent(look)
    assert checked(agent, container(tmp_path, data=True))
    assert agent.asked[0].required == ("/srv/data",)
    assert agent.asked[0].own == (str(tmp_path), str(tmp_path / "rootfs"))
    assert list((tmp_path / "rootfs").iterdir()) == []


def test_a_rootfs_that_an_engine_keeps_is_not_probed(tmp_path: Path) -> None:
    agent = Agent(answer())
    assert not checked(agent, container(tmp_path, engine=True))
    assert (agent.asked[0].probe, agent.asked[0].own) == (None, ())
    with pytest.raises(ProtocolError, match="shares files that it was not asked for"):
        checked(Agent(answer(shared=True)), container(tmp_path, engine=True))


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"missing": ("/srv/data",)}, errors.NotMovableError, "does not exist on beta"),
        ({}, errors.NotMovableError, "bind-mounted writable and not shared with beta"),
        ({"missing": ("/etc",)}, ProtocolError, "CheckPaths"),
        ({"taken": ("/etc",)}, ProtocolError, "CheckPaths"),
    ],
)
def test_paths_that_are_in_the_way(
    tmp_path: Path, words: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        checked(Agent(answer(**words)), container(tmp_path, data=True, config=False))


def test_a_place_that_is_taken(tmp_path: Path) -> None:
    taken = answer(taken=(str(tmp_path / "rootfs"),))
    with pytest.raises(errors.PathTaken, match="rootfs"):
        checked(Agent(taken), container(tmp_path))


def test_a_mount_that_is_only_read_need_not_be_shared(tmp_path: Path) -> None:
    assert not checked(Agent(answer()), container(tmp_path, config=False))


def engine(*layers: str) -> Any:
    return SimpleNamespace(describe=lambda _: {"a": "b"}, layers=lambda _: list(layers))


@pytest.mark.parametrize(
    ("layers", "found"), [(None, None), ((), frozenset()), (("1a",), frozenset({"1a"}))]
)
def test_layers_that_the_target_has(
    layers: tuple[str, ...] | None, found: frozenset[str] | None
) -> None:
    agent: Any = Agent(SimpleNamespace(objections=(), layers=layers))
    assert preflight.check_engine(agent, engine("1a", "2b"), None, "beta") == found  # type: ignore[arg-type]
    assert agent.asked == [protocol.Examine(description={"a": "b"})]


def test_an_engine_that_objects() -> None:
    agent: Any = Agent(SimpleNamespace(objections=("no such runtime", "and more"), layers=None))
    with pytest.raises(errors.RefusedByEngine, match="no such runtime"):
        preflight.check_engine(agent, engine(), None, "beta")  # type: ignore[arg-type]
    agent = Agent(SimpleNamespace(objections=(), layers=("9f",)))
    with pytest.raises(ProtocolError):
        preflight.check_engine(agent, engine("1a"), None, "beta")  # type: ignore[arg-type]

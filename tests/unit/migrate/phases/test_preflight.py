"""Tests of migrate/phases/preflight.py: what the checks of both hosts refuse."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from checkpoint.engines import registry
from checkpoint.engines.base import ROOTFS, Container, Engine, Tree
from checkpoint.engines.belongings import SHM
from checkpoint.engines.docker.engine import Docker
from checkpoint.engines.podman.engine import Podman
from checkpoint.host import lock, processes
from migrate import errors
from migrate.errors import NoSuchContainer
from migrate.phases import preflight
from migrate.wire import protocol
from migrate.wire.protocol import Answer, ProtocolError
from migrate.wire.values import PROBE_PREFIX, OwnAddress, Station
from tests.unit.helpers.engines import podman_that, stopped_docker
from tests.unit.helpers.obedient import Child
from tests.unit.migrate.answering import Target

DIGEST = "sha256:" + "a" * 64


class OfOneLayer:
    """An engine of a container whose image has one layer."""

    def describe(self, container: Container) -> dict[str, Any]:
        return {}

    def layers(self, container: Container) -> list[str]:
        return [DIGEST]


def container(directory: Path, **changed: Any) -> Container:
    """Return a container in a directory, with some of its fields changed."""
    fields: dict[str, Any] = {
        "id": "web",
        "name": "web",
        "pid": 1,
        "bundle": directory,
        "rootfs": directory,
        "config": {},
        "resources": {},
        "descriptors": (),
        "trees": (Tree(destination=ROOTFS, root=directory),),
        "network_namespace": None,
    }
    return Container(**{**fields, **changed})


def test_a_layer_that_the_image_has_not_is_refused(target: Target, tmp_path: Path) -> None:
    target.will_say(protocol.Examined(objections=(), layers=(DIGEST, "sha256:" + "b" * 64)))
    with pytest.raises(ProtocolError, match="answered Examine by 'sha256:bbb"):
        preflight.check_engine(
            target.agent, cast(Engine, OfOneLayer()), container(tmp_path), "beta"
        )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (protocol.PathsFound(missing=("/etc/shadow",), taken=(), shared=False), "'/etc/shadow'"),
        (protocol.PathsFound(missing=(), taken=("/etc/shadow",), shared=False), "'/etc/shadow'"),
        (
            protocol.PathsFound(missing=(), taken=(), shared=True),
            "shares files that it was not asked for",
        ),
    ],
)
def test_paths_that_were_not_asked_for_are_refused(
    target: Target, tmp_path: Path, answer: Answer, said: str
) -> None:
    target.will_say(answer)
    with pytest.raises(ProtocolError, match=said):
        preflight.check_paths(target.agent, container(tmp_path, engine_network=True), "beta")


def test_an_address_that_was_not_asked_for_is_refused(target: Target) -> None:
    asked = (OwnAddress("10.0.0.1", "02:00:00:00:00:01", "br0"),)
    target.will_say(protocol.AddressesFound(taken=(Station("10.0.0.2", "02:00:00:00:00:02"),)))
    with pytest.raises(ProtocolError, match=r"'10\.0\.0\.2'"):
        preflight.check_addresses(target.agent, asked, "beta")


MIB = 1 << 20


@pytest.mark.parametrize("size", ["64m", "0"])
def test_the_engines_shared_memory_is_counted_whatever_its_limit(
    mounted: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(mounted)], check=True)
    (mounted / "file").write_bytes(bytes(5 * MIB))
    counted: list[int] = []
    monkeypatch.setattr(preflight, "own_mounts", lambda _: [])
    monkeypatch.setattr(preflight, "check_host", lambda *_: None)
    monkeypatch.setattr(
        preflight, "check_pair", lambda *_, **facts: counted.append(facts["tmpfs_bytes"])
    )
    container: Any = SimpleNamespace(
        pid=os.getpid(), name="x", trees=[Tree(destination=SHM, root=mounted)]
    )
    facts: Any = None
    preflight.check_target(facts, facts, container, 0)
    assert counted == [5 * MIB]


@pytest.mark.usefixtures("no_engines")
def test_an_engine_that_cannot_be_asked_keeps_no_other_from_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_docker()
    podman_that(tmp_path, "exit 0")
    monkeypatch.setattr(registry, "ENGINES", {"docker": Docker, "podman": Podman})
    assert preflight.choose_engine(None, "web").name == "podman"


@pytest.mark.usefixtures("no_engines")
def test_an_engine_that_could_not_be_asked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_docker()
    podman_that(tmp_path, "exit 1")
    for module in (registry, preflight):
        monkeypatch.setattr(module, "ENGINES", {"docker": Docker, "podman": Podman})
    with pytest.raises(
        NoSuchContainer,
        match=r"'web' on this host \(podman could be asked; docker does not answer",
    ):
        preflight.choose_engine(None, "web")


class Agent:
    """The target's agent, which has one answer, and keeps what it is asked."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.asked: list[Any] = []

    def request(self, message: Any, *, timeout_s: float = 0) -> Any:
        self.asked.append(message)
        return self._answer(message) if callable(self._answer) else self._answer


# --- which engine --------------------------------------------------------------------------------


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets the engines that own the container, and the silent ones."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(lock, "DIRECTORY", tmp_path / "locks")

    def own(*names: str, **silent: str) -> None:
        found = [SimpleNamespace(name=name) for name in names]
        monkeypatch.setattr(preflight, "owners_of", lambda _: (found, silent))

    own()
    return own


def test_the_engine_that_has_the_container_is_taken(engines: Callable[..., None]) -> None:
    engines("podman")
    assert preflight.choose_engine(None, "web").name == "podman"
    assert preflight.choose_engine("runc", "web").name == "runc", "as the user has said"


def test_a_container_that_no_engine_has_is_not_found(engines: Callable[..., None]) -> None:
    engines(docker="docker does not answer")
    with pytest.raises(errors.NoSuchContainer, match=r"podman.*; docker does not answer"):
        preflight.choose_engine(None, "web")
    with pytest.raises(errors.NoSuchContainer):
        preflight.choose_engine(None, "w\neb")


def test_a_name_that_several_engines_have_is_refused(engines: Callable[..., None]) -> None:
    engines("podman", "runc")
    with pytest.raises(errors.SeveralContainers, match="podman"):
        preflight.choose_engine(None, "web")


@pytest.mark.parametrize("engine", [None, "runc"])
def test_a_container_that_another_task_has_is_refused(
    engines: Callable[..., None], engine: str | None
) -> None:
    engines("runc")
    with lock.locked([lock.name_key("runc", "web")], "another move"):
        with pytest.raises(errors.AlreadyMoving, match="another move"):
            preflight.choose_engine(engine, "web")
        assert preflight.choose_engine("crun", "web").name == "crun"


# --- processes -----------------------------------------------------------------------------------


def test_what_exec_has_started_is_noted_once(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    other, ended = Child(), Child()
    ended.end()
    pids = [child.pid, other.pid, ended.pid]
    monkeypatch.setattr(processes, "in_pid_namespace_of", lambda _: pids)
    monkeypatch.setattr(processes, "age_s", lambda pid: 5.0)
    notes: list[str] = []
    container: Any = SimpleNamespace(pid=child.pid)
    progress: Any = SimpleNamespace(report=SimpleNamespace(notes=notes), note=notes.append)
    for _ in range(2):
        preflight.note_exec_processes(container, progress)
    assert len(notes) == 1
    assert notes[0].startswith(f"process {other.pid} (")
    notes.clear()
    monkeypatch.setattr(processes, "age_s", lambda pid: 0.5)
    preflight.note_exec_processes(container, progress)
    assert notes == [], "a health check passes"
    other.end()


def test_a_container_without_a_pid_namespace_of_its_own_is_refused(child: Child) -> None:
    with pytest.raises(errors.NotMovableError, match=f"process {child.pid}, the container's first"):
        preflight.check_pid_namespace(child.pid)
    argv = ["unshare", "--pid", "--fork", "sh", "-c", "echo; exec sleep 100"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as outside:
        assert outside.stdout is not None
        outside.stdout.readline()
        [_, init] = processes.tree_of(outside.pid)
        preflight.check_pid_namespace(init)
        os.kill(init, signal.SIGKILL)


def test_an_open_file_outside_the_container_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = SimpleNamespace(pid=7, fd=3, path="/srv/file")
    bound: Any = SimpleNamespace(pid=1)
    monkeypatch.setattr(processes, "open_outside", lambda *_: [])
    preflight.check_open_files(bound, [7])
    monkeypatch.setattr(processes, "open_outside", lambda *_: [outside])
    with pytest.raises(errors.OpenFileOutside, match="/srv/file"):
        preflight.check_open_files(bound, [7])


def test_processes_whose_limits_cannot_be_read_are_refused(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Child()
    ended.end()
    preflight.check_limits([child.pid, ended.pid])

    def refused(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(resource, "prlimit", refused)
    with pytest.raises(errors.NotMovableError, match="CAP_SYS_RESOURCE"):
        preflight.check_limits([child.pid])


# --- the target ----------------------------------------------------------------------------------

ADDRESSES = (OwnAddress("10.1.0.2", "02:00:00:00:00:01", "br0"),)


def test_an_address_that_another_station_has_is_refused() -> None:
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


def bound(root: Path, *, engine: bool = False, **paths: bool) -> Any:
    """Return a container with a rootfs, and with bind mounts of /srv/NAME, writable or not."""
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


def test_a_rootfs_that_both_hosts_see_is_found_by_a_probe(tmp_path: Path) -> None:
    """The target finds a secret in the rootfs. The secret is gone afterwards."""

    def look(message: protocol.CheckPaths) -> protocol.PathsFound:
        assert message.probe is not None
        place = Path(message.probe.path)
        assert place.name.startswith(PROBE_PREFIX)
        assert place.parent == tmp_path / "rootfs"
        return answer(shared=place.read_text() == message.probe.token)

    agent = Agent(look)
    assert checked(agent, bound(tmp_path, data=True))
    assert agent.asked[0].required == ("/srv/data",)
    assert agent.asked[0].own == (str(tmp_path), str(tmp_path / "rootfs"))
    assert list((tmp_path / "rootfs").iterdir()) == []


def test_a_rootfs_that_an_engine_keeps_is_not_probed(tmp_path: Path) -> None:
    agent = Agent(answer())
    assert not checked(agent, bound(tmp_path, engine=True))
    assert (agent.asked[0].probe, agent.asked[0].own) == (None, ())
    with pytest.raises(ProtocolError, match="shares files that it was not asked for"):
        checked(Agent(answer(shared=True)), bound(tmp_path, engine=True))


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"missing": ("/srv/data",)}, errors.NotMovableError, "does not exist on beta"),
        ({}, errors.NotMovableError, "bind-mounted writable and not shared with beta"),
        ({"missing": ("/etc",)}, ProtocolError, "CheckPaths"),
        ({"taken": ("/etc",)}, ProtocolError, "CheckPaths"),
    ],
)
def test_paths_that_are_missing_or_not_shared_are_refused(
    tmp_path: Path, words: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        checked(Agent(answer(**words)), bound(tmp_path, data=True, config=False))


def test_a_path_that_is_taken_is_refused(tmp_path: Path) -> None:
    taken = answer(taken=(str(tmp_path / "rootfs"),))
    with pytest.raises(errors.PathTaken, match="rootfs"):
        checked(Agent(taken), bound(tmp_path))


def test_a_mount_that_is_only_read_need_not_be_shared(tmp_path: Path) -> None:
    assert not checked(Agent(answer()), bound(tmp_path, config=False))


def engine(*layers: str) -> Any:
    return SimpleNamespace(describe=lambda _: {"a": "b"}, layers=lambda _: list(layers))


@pytest.mark.parametrize(
    ("layers", "found"), [(None, None), ((), frozenset()), (("1a",), frozenset({"1a"}))]
)
def test_the_target_tells_which_layers_it_has(
    layers: tuple[str, ...] | None, found: frozenset[str] | None
) -> None:
    agent: Any = Agent(SimpleNamespace(objections=(), layers=layers))
    container: Any = None
    assert preflight.check_engine(agent, engine("1a", "2b"), container, "beta") == found
    assert agent.asked == [protocol.Examine(description={"a": "b"})]


def test_an_engine_that_objects_is_a_refusal() -> None:
    agent: Any = Agent(SimpleNamespace(objections=("no such runtime", "and more"), layers=None))
    with pytest.raises(errors.RefusedByEngine, match="no such runtime"):
        preflight.check_engine(agent, engine(), None, "beta")  # type: ignore[arg-type]
    agent = Agent(SimpleNamespace(objections=(), layers=("9f",)))
    with pytest.raises(ProtocolError):
        preflight.check_engine(agent, engine("1a"), None, "beta")  # type: ignore[arg-type]

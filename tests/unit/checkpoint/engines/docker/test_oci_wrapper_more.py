"""The functions of checkpoint/engines/docker/oci_wrapper.py, run in this process and in forked ones.

tests/unit/test_oci_wrapper.py has the file run as the program that docker calls.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.docker import oci_wrapper
from checkpoint.engines.docker.oci_wrapper import (
    cgroups_of,
    command_of,
    create,
    enter,
    inherit,
    main,
    mode_of,
    socket_of,
    stand_for,
    start,
)
from checkpoint.host.listener import Listener
from tests.rig import until
from tests.unit.forked import forked

STATUS, LIMIT_S = 7, 20.0
#: A runc that leaves a process behind as the container's init, and one that does not.
RESTORES = f"(sleep 0.1; exit {STATUS}) & echo $! > $0"
FAILS = "exit 1"


class Agent:
    """The agent's end: has one order for whoever connects, and keeps what it is told."""

    def __init__(self, path: Path, order: bytes) -> None:
        self.path, self._order = path, order
        self.told: list[bytes] = []
        self.over = threading.Event()
        self._listener = Listener(path, self._serve, "agent")

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            self.told.append(peer.recv(1000))
            if self._order:
                peer.send(self._order)
                while more := peer.recv(1000):
                    self.told.append(more)
        self.over.set()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[[object], Agent]]:
    """Makes an agent with an order, of which None is that it hangs up."""
    made: list[Agent] = []

    def make(order: object) -> Agent:
        made.append(Agent(tmp_path / "box", json.dumps(order).encode() if order else b""))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle in a working directory, and cgroups that are plain files."""
    monkeypatch.setattr(oci_wrapper, "CGROUPS", str(tmp_path / "cgroups"))
    path = tmp_path / "bundle"
    path.mkdir()
    monkeypatch.chdir(path)
    write_config(path, [{"type": "network"}])
    return path


def write_config(bundle: Path, namespaces: list[dict[str, str]]) -> None:
    config = {"linux": {"cgroupsPath": "", "namespaces": namespaces}}
    (bundle / "config.json").write_text(json.dumps(config))


def order(tmp_path: Path, script: str) -> dict[str, Any]:
    """The order to restore by a shell script, whose $0 is the pid file."""
    pid_file = str(tmp_path / "restored.pid")
    return {"argv": ["sh", "-c", script, pid_file], "env": {}, "pid_file": pid_file}


def words(tmp_path: Path, *more: str) -> list[str]:
    return ["--root", "/r", "create", f"--pid-file={tmp_path / 'init.pid'}", *more, "box"]


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- the process that stands for a container -------------------------------------------------------


def test_what_create_leaves_ends_as_the_container_does(
    bundle: Path, tmp_path: Path, agent: Callable[[object], Agent]
) -> None:
    told = agent(order(tmp_path, RESTORES))

    def body() -> None:
        create(words(tmp_path), str(told.path))
        assert ended(int((tmp_path / "init.pid").read_text())) == STATUS

    forked(body)
    assert json.loads(told.told[0]) == {"command": "create", "root": "/r", "bundle": str(bundle)}


@pytest.mark.parametrize(
    ("namespaces", "own"),
    [
        ([{"type": "network"}], True),
        ([{"type": "network", "path": ""}, {"type": "mount"}], True),
        ([{"type": "network", "path": "/run/netns/x"}], False),
        ([{"type": "mount"}], False),
    ],
)
def test_it_has_a_network_namespace_if_the_container_is_to_have_one(
    bundle: Path,
    tmp_path: Path,
    agent: Callable[[object], Agent],
    namespaces: list[dict[str, str]],
    own: bool,
) -> None:
    write_config(bundle, namespaces)
    told = agent(order(tmp_path, "sleep 60 & echo $! > $0"))

    def body() -> None:
        create(words(tmp_path), str(told.path))
        pid = int((tmp_path / "init.pid").read_text())
        found = os.stat(f"/proc/{pid}/ns/net").st_ino
        assert (found != os.stat("/proc/self/ns/net").st_ino) is own
        os.kill(pid, signal.SIGTERM)
        assert ended(pid) == 128 + signal.SIGTERM

    forked(body)


@pytest.mark.parametrize("option", ["--bundle", "-b"])
def test_where_the_bundle_is(
    bundle: Path,
    tmp_path: Path,
    agent: Callable[[object], Agent],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
) -> None:
    monkeypatch.chdir("/")
    told = agent(order(tmp_path, RESTORES))
    forked(lambda: create(words(tmp_path, option, str(bundle)), str(told.path)))
    assert json.loads(until(lambda: told.told, "its question")[0])["bundle"] == str(bundle)


@pytest.mark.parametrize("stays", [True, False])
def test_a_restore_that_fails_ends_it_and_says_if_it_was_in_the_way(
    bundle: Path, tmp_path: Path, agent: Callable[[object], Agent], stays: bool
) -> None:
    """runc refuses a cgroup that has a process in it."""
    for controllers, path in cgroups_of("self").items():
        home = f"{tmp_path}/cgroups/{controllers.removeprefix('name=')}/{path}"
        (tmp_path if stays else Path(home)).mkdir(parents=True, exist_ok=True)
    told = agent(order(tmp_path, FAILS))

    def body() -> None:
        create(words(tmp_path), str(told.path))
        assert ended(int((tmp_path / "init.pid").read_text())) == 1

    forked(body)
    assert told.over.wait(LIMIT_S)
    said = b"".join(told.told[1:])
    assert (b"a process could not leave its cgroup for" in said) is stays


def test_a_move_that_is_over_ends_it(
    bundle: Path, tmp_path: Path, agent: Callable[[object], Agent]
) -> None:
    told = agent(None)

    def body() -> None:
        create(words(tmp_path), str(told.path))
        assert ended(int((tmp_path / "init.pid").read_text())) == 1

    forked(body)


def test_a_process_that_could_not_be_made_is_told(bundle: Path, tmp_path: Path) -> None:
    """Nobody listens any more at its agent's socket."""

    def body() -> None:
        with pytest.raises(SystemExit, match="could not be made"):
            create(words(tmp_path), str(tmp_path / "nobody"))

    forked(body)
    assert not (tmp_path / "init.pid").exists()


def standing(*scripts: str) -> int:
    """A process that stands for the last of some shell scripts, all of which it started."""
    if (pid := os.fork()) == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        init = 0
        for script in scripts:
            if (init := os.fork()) == 0:
                signal.pthread_sigmask(signal.SIG_SETMASK, [])
                os.execvp("sh", ["sh", "-c", script])  # noqa: S606
        stand_for(init)
    return pid


@pytest.mark.parametrize(
    ("scripts", "status"),
    [
        (("exit 0",), 0),
        (("exit 9",), 9),
        (("kill -KILL $$",), 128 + signal.SIGKILL),
        (("exit 3", "sleep 0.2; exit 9"), 9),
    ],
)
def test_its_end_is_the_inits(scripts: tuple[str, ...], status: int) -> None:
    assert ended(standing(*scripts)) == status


def test_signals_are_passed_on(tmp_path: Path) -> None:
    script = f"trap 'exit 5' USR1; : > {tmp_path}/ready; while :; do sleep 0.01; done"
    pid = standing(script)
    until((tmp_path / "ready").exists, "the trap to be set")
    os.kill(pid, signal.SIGUSR1)
    assert ended(pid) == 5


# --- the start, and what is runc's -----------------------------------------------------------------


def test_a_start_that_succeeds_says_nothing(agent: Callable[[object], Agent]) -> None:
    told = agent({"failure": ""})
    start(["start", "box"], str(told.path))
    assert json.loads(told.told[0]) == {"command": "start"}


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(
    ("answer", "said"),
    [({"failure": "no way"}, "no way"), (None, "the move that was to bring it has ended")],
)
def test_a_start_that_fails(
    tmp_path: Path, agent: Callable[[object], Agent], log: bool, answer: object, said: str
) -> None:
    told = agent(answer)
    given = ["--log", str(tmp_path / "log")] if log else []
    with pytest.raises(SystemExit, match=f"migrate: {said}"):
        start([*given, "start", "box"], str(told.path))
    if log:
        assert json.loads((tmp_path / "log").read_text()) == {"level": "error", "msg": said}


@pytest.mark.parametrize("given", [[], ["start", "box"], ["create", "box"], ["state", "box"]])
def test_anything_else_is_runcs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.setattr(oci_wrapper, "DIRECTORY", str(tmp_path))
    called: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("os.execvp", lambda file, argv: called.append((file, argv)))
    monkeypatch.setattr("sys.argv", ["migrate-oci-runtime", *given])
    main()
    assert called == [("runc", ["runc", *given])]


def test_a_container_that_comes_in_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: Callable[[object], Agent]
) -> None:
    monkeypatch.setattr(oci_wrapper, "DIRECTORY", str(tmp_path))
    told = agent(None)
    called: list[tuple[list[str], str]] = []
    for command in ("create", "start"):
        monkeypatch.setattr(oci_wrapper, command, lambda words, path: called.append((words, path)))
        monkeypatch.setattr("sys.argv", ["migrate-oci-runtime", command, "box"])
        main()
    path = str(told.path)
    assert called == [(["create", "box"], path), (["start", "box"], path)]


@pytest.mark.parametrize("name", ["", "../box", "none", "plain", "a\0b"])
def test_a_name_that_is_no_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(oci_wrapper, "DIRECTORY", str(tmp_path / "sockets"))
    (tmp_path / "sockets").mkdir()
    (tmp_path / "sockets/plain").touch()
    listener = Listener(tmp_path / "box", lambda peer: peer.close(), "agent")
    try:
        assert socket_of(name) == ""
        assert mode_of(str(tmp_path / "sockets/a\0b")) == 0
    finally:
        listener.close()


def test_an_option_at_the_end_has_no_value() -> None:
    assert oci_wrapper.option(["create", "--bundle"], "--bundle") == ""
    assert command_of(["--root"]) == ""


# --- cgroups ---------------------------------------------------------------------------------------


def test_the_cgroups_of_a_process() -> None:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    assert [f"{name}:{path}" for name, path in cgroups_of("self").items()] == [
        line.split(":", 1)[1] for line in lines
    ]


def test_cgroups_of_both_versions_are_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci_wrapper, "CGROUPS", str(tmp_path))
    assert enter({"": "/box", "pids": "/box", "name=systemd": "/box"}, make=True) == ""
    entered = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("cgroup.procs"))
    assert entered == ["pids/box/cgroup.procs", "systemd/box/cgroup.procs"], "v2 is not mounted"
    (tmp_path / "cgroup.procs").touch()
    assert enter({"": "/box"}, make=True) == ""
    assert (tmp_path / "box/cgroup.procs").read_text() == "0"


def test_a_new_cpuset_gets_what_its_nearest_parent_has(tmp_path: Path) -> None:
    for directory, cpus in ((".", "0-3\n"), ("a", "\n"), ("a/b", "\n")):
        (tmp_path / directory).mkdir(exist_ok=True)
        (tmp_path / directory / "cpuset.cpus").write_text(cpus)
    inherit(str(tmp_path / "a/b"), "cpuset.cpus")
    assert (tmp_path / "a/cpuset.cpus").read_text() == "0-3\n"
    assert (tmp_path / "a/b/cpuset.cpus").read_text() == "0-3\n"


def test_a_cpuset_that_has_processors_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "cpuset.cpus").write_text("0-3\n")
    (tmp_path / "a/cpuset.cpus").write_text("1\n")
    inherit(str(tmp_path / "a"), "cpuset.cpus")
    assert (tmp_path / "a/cpuset.cpus").read_text() == "1\n"
    inherit(str(tmp_path / "none"), "cpuset.cpus")

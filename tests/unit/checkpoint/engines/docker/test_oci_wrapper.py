"""Tests of checkpoint/engines/docker/oci_wrapper.py and of the program that docker runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.docker import api, incoming, oci_wrapper
from checkpoint.engines.docker.incoming import IncomingDockerContainer
from checkpoint.engines.docker.oci_wrapper import (
    cgroups_of,
    command_of,
    create,
    enter,
    inherit,
    main,
    mode_of,
    option,
    socket_of,
    stand_for,
    start,
)
from checkpoint.host.listener import Listener
from checkpoint.host.ready import ready
from tests.rig import until
from tests.unit.helpers.forked import forked

Program = Callable[..., subprocess.CompletedProcess[bytes]]
#: The exit status of programs/runc.
STATUS = 7
PROGRAMS = Path(__file__).parent / "programs"
#: The options that containerd's shim gives.
GLOBAL = [
    "--root",
    "/run/docker/runtime-migrate/moby",
    "--log",
    "/run/log.json",
    "--log-format",
    "json",
]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Return the function that runs the wrapper, with programs/runc and other sockets."""
    runc = tmp_path / "bin/runc"
    runc.parent.mkdir()
    shutil.copy(PROGRAMS / "runc", runc)
    (tmp_path / "sockets").mkdir()
    source = Path(oci_wrapper.__file__).read_text()
    for constant, name in ((oci_wrapper.DIRECTORY, "sockets"), (oci_wrapper.CGROUPS, "cgroups")):
        assert source.count(f'"{constant}"') == 1
        source = source.replace(f'"{constant}"', repr(str(tmp_path / name)))
    file = tmp_path / "wrapper"
    file.write_text(source)
    env = {**os.environ, "PATH": f"{runc.parent}:{os.environ['PATH']}"}

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        argv = [sys.executable, "-IS", str(file), *words]
        return subprocess.run(argv, env=env, capture_output=True, timeout=30, check=False)

    return run


def went_to_runc(done: subprocess.CompletedProcess[bytes], *words: str) -> bool:
    """Return whether runc got these words, and its output and status are the wrapper's."""
    given = b"".join(os.fsencode(word) + b"\0" for word in words)
    return (done.stdout, done.stderr, done.returncode) == (given, b"", STATUS)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ([], ""),
        (["--version"], ""),
        (["create", "box"], "create"),
        ([*GLOBAL, "start", "box"], "start"),
        (["--root", "create", "kill", "box", "9"], "kill"),
        (["--root=/x", "--debug", "--systemd-cgroup", "delete", "--force", "box"], "delete"),
        (["--criu", "/usr/sbin/criu", "--rootless", "false", "state", "box"], "state"),
        (["--log"], ""),
    ],
)
def test_the_command_is_the_first_word_that_belongs_to_no_option(
    words: list[str], command: str
) -> None:
    assert command_of(words) == command


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([], ""),
        (["create", "box"], ""),
        (["create", "--bundle", "/b", "box"], "/b"),
        (["create", "--bundle=/b=c", "box"], "/b=c"),
        (["create", "--bundle=", "box"], ""),
        (["create", "--bundles", "/b", "box"], ""),
        (["create", "--bundled=/c", "box"], ""),
    ],
)
def test_the_value_of_an_option_is_found_in_both_spellings(words: list[str], value: str) -> None:
    assert option(words, "--bundle") == value


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--version"],
        [*GLOBAL, "create", "--bundle", "/a bundle", "--pid-file", "/x/init.pid", "box"],
        [*GLOBAL, "start", "box"],
        [*GLOBAL, "kill", "--all", "box", "9"],
        [*GLOBAL, "exec", "--process", "/tmp/p", "--detach", "box"],  # noqa: S108
        ["state", os.fsdecode(b"caf\xe9"), "*", "a\nb", "", "box"],
    ],
)
def test_without_a_socket_every_command_goes_to_runc(program: Program, words: list[str]) -> None:
    assert went_to_runc(program(*words), *words)


def test_the_program_as_it_is_installed_goes_to_runc(program: object, tmp_path: Path) -> None:
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    argv = [sys.executable, "-IS", oci_wrapper.__file__, *GLOBAL, "start", "no-such-container"]
    assert went_to_runc(subprocess.run(argv, env=env, capture_output=True, check=False), *argv[3:])


def test_with_a_socket_other_commands_go_to_runc(program: Program, tmp_path: Path) -> None:
    asked: list[bytes] = []
    listener = Listener(
        tmp_path / "sockets/box", lambda peer: asked.append(peer.recv(100)), "agent"
    )
    for words in (["state", "box"], [*GLOBAL, "delete", "--force", "box"], ["start", "another"]):
        assert went_to_runc(program(*words), *words)
    listener.close()
    assert asked == []


def answering(path: Path, answer: bytes, asked: list[object]) -> Listener:
    """Start an agent with one answer, which hangs up without any if that is empty."""

    def serve(peer: socket.socket) -> None:
        with peer:
            asked.append(json.loads(peer.recv(1000)))
            if answer:
                peer.send(answer)

    return Listener(path, serve, "agent")


def test_a_start_waits_for_the_agent(program: Program, tmp_path: Path) -> None:
    asked: list[object] = []
    listener = answering(tmp_path / "sockets/box", b'{"failure": ""}', asked)
    done = program("--log", str(tmp_path / "log"), "start", "box")
    listener.close()
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
    assert asked == [{"command": "start"}]
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b'{"failure": "no way"}', "no way"), (b"", "the move that was to bring it has ended")],
)
def test_a_start_that_fails_is_told_and_logged(
    program: Program, tmp_path: Path, answer: bytes, said: str
) -> None:
    log = tmp_path / "log"
    log.write_text('{"level": "debug", "msg": "before"}\n')
    listener = answering(tmp_path / "sockets/box", answer, [])
    done = program(f"--log={log}", "--log-format", "json", "start", "box")
    listener.close()
    assert (done.stdout, done.stderr.decode(), done.returncode) == (b"", f"migrate: {said}\n", 1)
    assert [json.loads(line)["msg"] for line in log.read_text().splitlines()] == ["before", said]


# --- a container that arrives --------------------------------------------------------------


@pytest.fixture
def arrival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IncomingDockerContainer]:
    """Yield the arrival of a container "box" in a docker that runs the wrapper."""
    monkeypatch.setattr(incoming, "DIRECTORY", str(tmp_path / "sockets"))
    monkeypatch.setattr(incoming, "start_logged", lambda *_: None)
    monkeypatch.setattr(api, "call", lambda *_, **__: {"Id": "box", "DockerRootDir": str(tmp_path)})
    config = {"linux": {"cgroupsPath": "", "namespaces": [{"type": "network"}]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "cgroups").mkdir()
    fields: dict[str, Any] = {
        "container": {
            "Config": {"Image": "x"},
            "HostConfig": {"LogConfig": {"Type": "none"}},
            "Image": "x",
            "Name": "/box",
        },
        **{name: {} for name in ("endpoints", "networks", "volumes")},
        **{name: [] for name in ("layers", "descriptors")},
    }
    with contextlib.ExitStack() as undo:
        made = IncomingDockerContainer("box", fields, undo)
        made.prepare(b"", shared=False)
        env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        made.start_restore(tmp_path, tmp_path, env)
        yield made


def created(tmp_path: Path) -> int:
    """Have the wrapper make the container, and return the pid that docker takes for its init."""
    pid_file, words = tmp_path / "init.pid", ["create", "--bundle", str(tmp_path)]
    argv = [sys.executable, "-IS", str(tmp_path / "wrapper"), *words, f"--pid-file={pid_file}"]
    subprocess.run([*argv, "box"], stdout=subprocess.DEVNULL, timeout=30, check=True)
    return int(pid_file.read_text())


def descriptors() -> set[str]:
    """Return the names of this process's descriptors that lead to processes or peers."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if (name := os.readlink(f"/proc/self/fd/{fd}")).startswith(("anon_inode", "socket")):
                found.add(f"{fd} {name}")
    return found


def test_a_container_that_arrives_is_restored_and_ends_with_its_init(
    program: Program, arrival: object, tmp_path: Path
) -> None:
    before = descriptors()
    shutil.copy(PROGRAMS / "restoring-runc", tmp_path / "bin/runc")
    stands = os.pidfd_open(created(tmp_path))
    try:
        assert program("start", "box").returncode == 0
        until(lambda: len(descriptors()) == len(before) + 1, "no descriptor but this pidfd")
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        assert ready(stands, timeout_s=20), "it ends with its init"
    finally:
        os.close(stands)


@pytest.mark.parametrize("where", ["cgroups", "none"])
def test_an_arrival_that_runc_refuses_is_told(
    program: Program, arrival: object, tmp_path: Path, where: str
) -> None:
    """The process in the container's place may be the cause, and says so then.

    No process may be in the container's cgroups when runc restores it.
    """
    (tmp_path / "bin/runc").write_text("#!/bin/sh\nexit 1\n")
    if where == "cgroups":  # cgroup.procs of neither version can be written
        (tmp_path / "cgroups/cgroup.procs").mkdir()
    else:
        (tmp_path / "cgroups").rmdir()
        (tmp_path / "cgroups").symlink_to("/sys/fs/cgroup")
    created(tmp_path)
    done = program("start", "box")
    assert done.returncode == 1
    assert done.stderr.startswith(b"migrate: runc could not restore it")
    assert (b"a process could not leave its cgroup for" in done.stderr) is (where == "cgroups")


def test_cgroups_that_cannot_be_entered_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci_wrapper, "CGROUPS", str(tmp_path))
    (tmp_path / "cgroup.procs").touch()
    assert enter({"": "/", "cpu": "no path"}, make=False) == ""
    assert (tmp_path / "cgroup.procs").read_text() == "0"
    told = f"{tmp_path}/pids/x: No such file or directory"
    assert enter({"pids": "/x", "": "/y"}, make=False) == told
    assert enter({"": "/y"}, make=True) == ""
    assert (tmp_path / "y/cgroup.procs").read_text() == "0"


LIMIT_S = 20.0
#: A runc that leaves a process behind as the container's init, and one that does not.
RESTORES = f"(sleep 0.1; exit {STATUS}) & echo $! > $0"
FAILS = "exit 1"


class Agent:
    """An agent that has one order for every process that connects, and keeps what it is told."""

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
    """Yield a function that makes an agent with an order; an agent without an order hangs up."""
    made: list[Agent] = []

    def make(order: object) -> Agent:
        made.append(Agent(tmp_path / "box", json.dumps(order).encode() if order else b""))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a bundle, which is the working directory. Cgroups are plain files of the test."""
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
    """Return the order to restore by a shell script, whose $0 is the pid file."""
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
    """The process may be the cause: runc refuses a cgroup that has a process in it."""
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
    """No agent listens any more at the socket."""

    def body() -> None:
        with pytest.raises(SystemExit, match="could not be made"):
            create(words(tmp_path), str(tmp_path / "nobody"))

    forked(body)
    assert not (tmp_path / "init.pid").exists()


def standing(*scripts: str) -> int:
    """Start a process that runs shell scripts and stands for the last of them; return its pid."""
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

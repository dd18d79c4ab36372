"""Tests of checkpoint/engines/docker/oci_wrapper.py, as the program that docker runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.docker import api, incoming, oci_wrapper
from checkpoint.engines.docker.incoming import IncomingDockerContainer
from checkpoint.host.listener import Listener, peer_pid
from checkpoint.host.ready import ready
from checkpoint.undo import Undo
from tests.rig import until
from tests.unit.checkpoint.engines.docker.oci_wrapper.agents import (
    GLOBAL,
    PROGRAMS,
    STATUS,
    Program,
)


def went_to_runc(done: subprocess.CompletedProcess[bytes], *words: str) -> bool:
    """Return whether runc got these words, and its output and status are the wrapper's."""
    given = b"".join(os.fsencode(word) + b"\0" for word in words)
    return (done.stdout, done.stderr, done.returncode) == (given, b"", STATUS)


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


def test_before_a_delete_the_files_of_a_lost_restore_are_unmounted(
    program: Program, tmp_path: Path
) -> None:
    """`runc delete --force` would remove them: they are mounted in the state directory."""
    rootfs, left = tmp_path / "rootfs", tmp_path / "root/box/criu-root"
    for directory in (rootfs, left):
        directory.mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(rootfs), str(left)], check=True)
    words = ["--root", str(tmp_path / "root"), "delete", "--force", "box"]
    assert went_to_runc(program(*words), *words)
    assert not os.path.ismount(left)
    assert str(left) not in Path("/proc/self/mountinfo").read_text()


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


def test_a_start_that_is_asked_to_end_waits_all_the_same(program: Program, tmp_path: Path) -> None:
    """A start that ended would have docker kill the container, which may run already."""

    def serve(peer: socket.socket) -> None:
        with peer:
            peer.recv(1000)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(peer_pid(peer), number)
            peer.send(b'{"failure": ""}')

    listener = Listener(tmp_path / "sockets/box", serve, "agent")
    assert program("start", "box").returncode == 0
    listener.close()


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


@pytest.fixture
def arrival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IncomingDockerContainer]:
    """Yield the arrival of a container "box" in a docker that runs the wrapper."""
    monkeypatch.setattr(incoming, "DIRECTORY", str(tmp_path / "sockets"))
    monkeypatch.setattr(incoming, "start_logged", lambda *_: None)
    monkeypatch.setattr(api, "call", lambda *_, **__: {"Id": "box", "DockerRootDir": str(tmp_path)})
    for wait in ("await_answer", "await_containerd"):
        monkeypatch.setattr(api, wait, lambda: None)
    config = {"linux": {"cgroupsPath": "", "namespaces": [{"type": "network"}]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "cgroups").mkdir()
    fields: dict[str, Any] = {
        "container": {
            "Config": {"Image": "x"},
            "HostConfig": {"LogConfig": {"Type": "none"}, "RestartPolicy": {"Name": "no"}},
            "Image": "x",
            "Name": "/box",
        },
        **{name: {} for name in ("endpoints", "networks", "volumes")},
        **{name: [] for name in ("layers", "descriptors")},
    }
    with Undo() as undo:
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

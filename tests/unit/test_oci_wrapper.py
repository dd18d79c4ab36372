"""checkpoint/runtimes/oci_wrapper.py: its words, and the file as the program that docker runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.host.listener import Listener
from checkpoint.runtimes import oci_wrapper
from checkpoint.runtimes.oci_wrapper import command_of, option

Program = Callable[..., subprocess.CompletedProcess[bytes]]
STATUS = 7
#: Prints its words, each ended by a zero.
RUNC = f"""#!/bin/sh
[ $# -eq 0 ] || printf '%s\\0' "$@"
exit {STATUS}
"""
#: As containerd's shim calls it.
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
    """Runs it, with another `runc` and its sockets in `sockets`."""
    runc = tmp_path / "bin/runc"
    runc.parent.mkdir()
    runc.write_text(RUNC)
    runc.chmod(0o755)
    (tmp_path / "sockets").mkdir()
    source = Path(oci_wrapper.__file__).read_text()
    assert source.count(f'"{oci_wrapper.DIRECTORY}"') == 1
    file = tmp_path / "wrapper"
    file.write_text(source.replace(f'"{oci_wrapper.DIRECTORY}"', repr(str(tmp_path / "sockets"))))
    env = {**os.environ, "PATH": f"{runc.parent}:{os.environ['PATH']}"}

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        argv = [sys.executable, "-IS", str(file), *words]
        return subprocess.run(argv, env=env, capture_output=True, timeout=30, check=False)

    return run


def went_to_runc(done: subprocess.CompletedProcess[bytes], *words: str) -> bool:
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
def test_command(words: list[str], command: str) -> None:
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
def test_option(words: list[str], value: str) -> None:
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
def test_without_a_socket_it_is_runc(program: Program, words: list[str]) -> None:
    assert went_to_runc(program(*words), *words)


def test_the_file_as_it_is(program: object, tmp_path: Path) -> None:
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    argv = [sys.executable, "-IS", oci_wrapper.__file__, *GLOBAL, "start", "no-such-container"]
    assert went_to_runc(subprocess.run(argv, env=env, capture_output=True, check=False), *argv[3:])


def test_with_a_socket_other_commands_are_runcs(program: Program, tmp_path: Path) -> None:
    asked: list[bytes] = []
    listener = Listener(
        tmp_path / "sockets/box", lambda peer: asked.append(peer.recv(100)), "agent"
    )
    for words in (["state", "box"], [*GLOBAL, "delete", "--force", "box"], ["start", "another"]):
        assert went_to_runc(program(*words), *words)
    listener.close()
    assert asked == []


def answering(path: Path, answer: bytes, asked: list[object]) -> Listener:
    """An agent with one answer; it hangs up without any if that is empty."""

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
def test_a_start_that_fails(program: Program, tmp_path: Path, answer: bytes, said: str) -> None:
    log = tmp_path / "log"
    log.write_text('{"level": "debug", "msg": "before"}\n')
    listener = answering(tmp_path / "sockets/box", answer, [])
    done = program(f"--log={log}", "--log-format", "json", "start", "box")
    listener.close()
    assert (done.stdout, done.stderr.decode(), done.returncode) == (b"", f"migrate: {said}\n", 1)
    assert [json.loads(line)["msg"] for line in log.read_text().splitlines()] == ["before", said]

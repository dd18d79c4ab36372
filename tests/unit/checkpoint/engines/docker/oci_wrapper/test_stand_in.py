"""Tests of checkpoint/engines/docker/oci_wrapper.py: the process that stands for a container."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.docker.oci_wrapper import (
    cgroups_of,
    create,
    stand_for,
)
from tests.rig import until
from tests.unit.checkpoint.engines.docker.oci_wrapper.agents import (
    LIMIT_S,
    STATUS,
    Agent,
    write_config,
)
from tests.unit.helpers.forked import forked

#: A runc that leaves a process behind as the container's init, and one that does not.
RESTORES = f"(sleep 0.1; exit {STATUS}) & echo $! > $0"

FAILS = "exit 1"


def order(tmp_path: Path, script: str) -> dict[str, Any]:
    """Return the order to restore by a shell script, whose $0 is the pid file."""
    pid_file = str(tmp_path / "restored.pid")
    return {"argv": ["sh", "-c", script, pid_file], "env": {}, "pid_file": pid_file}


def words(tmp_path: Path, *more: str) -> list[str]:
    return ["--root", "/r", "create", f"--pid-file={tmp_path / 'init.pid'}", *more, "box"]


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_stand_in_ends_as_the_container_does(
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
def test_the_stand_in_has_a_network_namespace_if_the_container_is_to_have_one(
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
def test_the_agent_is_told_the_path_of_the_bundle(
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
def test_a_restore_that_fails_ends_the_stand_in_which_says_if_it_was_in_the_way(
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


def test_the_stand_in_ends_with_the_migration(
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
def test_the_stand_in_ends_with_the_status_of_the_init(
    scripts: tuple[str, ...], status: int
) -> None:
    assert ended(standing(*scripts)) == status


def test_the_stand_in_passes_signals_on(tmp_path: Path) -> None:
    script = f"trap 'exit 5' USR1; : > {tmp_path}/ready; while :; do sleep 0.01; done"
    pid = standing(script)
    until((tmp_path / "ready").exists, "the trap to be set")
    os.kill(pid, signal.SIGUSR1)
    assert ended(pid) == 5

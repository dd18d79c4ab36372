"""Tests of migrate/agent/successor.py, with sockets in place of CRIU and of the runtime.

tests/integration kills real agents that hold real containers.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pycriu import rpc_pb2

from checkpoint.criu import rpc
from checkpoint.errors import ConversationLost
from checkpoint.files.made import MadeDirectory
from checkpoint.host import lock, proc, ram_directory
from checkpoint.host.identity import PathRecord
from checkpoint.host.worker import Worker
from migrate.agent import control, successor
from migrate.agent.control import GO, Outcome
from migrate.agent.successor import KILLED, Held, HeldContainer, succeed
from migrate.journal import book
from migrate.journal.book import MigrationJournal
from migrate.journal.records import TARGET
from migrate.limits import Limits
from tests.unit.helpers.begun import ID, begun

LIMIT_S = 20


def notification(script: str) -> bytes:
    """Return a notification of CRIU's."""
    message = rpc_pb2.criu_resp(type=rpc_pb2.NOTIFY, success=True)
    message.notify.script, message.notify.pid = script, 7
    return bytes(message.SerializeToString())


def went_on(*, success: bool = True) -> bytes:
    """Return the answer to a notification."""
    return bytes(rpc.request("NOTIFY", notify_success=success).SerializeToString())


class Scene:
    """What an agent leaves that was killed while it held a container."""

    def __init__(self, directory: Path) -> None:
        self.runtime, runtime = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.criu, criu = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.runtime.settimeout(LIMIT_S)
        self.criu.settimeout(LIMIT_S)
        self.criu_process = subprocess.Popen(["sleep", "100"])
        self.engine_process = subprocess.Popen(["sleep", "100"])
        self.made, self.passing = directory / "made", directory / "passing"
        self.made.mkdir()
        self.passing.mkdir()
        self.journal = MigrationJournal(begun(TARGET, boot_id=proc.boot_id()))
        for path, passing in ((self.made, False), (self.passing, True)):
            thing = MadeDirectory(path=PathRecord.of(path), whole=True)
            self.journal.made(thing, passing)
        self.journal.entered("held")
        self.told: list[list[int]] = []
        self.kept, self.other_end = socket.socketpair()
        self.held = Held(
            migration_id=ID,
            container_name="web",
            directory=directory / ID,
            network=None,
            runtime_pid=os.getpid(),
            criu_pid=self.criu_process.pid,
            waiting=notification("post-restore"),
            limits=Limits(resume_s=LIMIT_S, end_s=LIMIT_S),
            journal=self.journal.fileno(),
            runtime=runtime.detach(),
            criu=criu.detach(),
            criu_pidfd=os.pidfd_open(self.criu_process.pid),
            engine_pidfd=os.pidfd_open(self.engine_process.pid),
            engine_part=self.told.append,
            engine_fds=(self.other_end.fileno(),),
            kept=(self.kept.detach(),),
        )

    @property
    def fds(self) -> list[int]:
        return self.held.descriptors

    def container(self) -> HeldContainer:
        """Return the container as the successor holds it; the descriptors are the agent's own."""
        return HeldContainer(self.held, {fd: fd for fd in self.fds})

    def restored(self) -> None:
        """Be the runtime and CRIU from the held notification to the end of the restore."""
        assert self.runtime.recv(100) == notification("post-restore")
        self.runtime.send(went_on())
        self.go_on()

    def go_on(self) -> None:
        """Be CRIU and the runtime from the agent's answer to the held notification on."""
        assert self.criu.recv(100) == went_on()
        for script in ("network-unlock", "post-resume"):
            self.criu.send(notification(script))
            assert self.runtime.recv(100) == notification(script)
            self.runtime.send(went_on())
            assert self.criu.recv(100) == went_on()
        self.end()

    def end(self) -> None:
        """Have CRIU and the engine's restore end."""
        for process in (self.criu_process, self.engine_process):
            process.kill()
            process.wait()
        self.criu.close()
        self.runtime.close()

    def close(self) -> None:
        self.end()
        self.other_end.close()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(control, "RUN", tmp_path)
    monkeypatch.setattr(ram_directory, "RUN", tmp_path)
    monkeypatch.setattr(lock, "RUN", tmp_path)
    monkeypatch.setattr(lock, "DIRECTORY", tmp_path / "locks")
    found = Scene(tmp_path)
    yield found
    found.close()


def meanwhile(act: Callable[[], object]) -> Worker[object]:
    return Worker("other end", act)


def end_of_the_journal() -> tuple[str | None, str | None]:
    """Return the last state of the journal, and the error if it has ended."""
    [found] = [each.account for each in book.listed()]
    return found.state, found.ended.error if found.ended is not None else "it goes on"


def test_a_held_container_is_resumed_and_kept(scene: Scene) -> None:
    container = scene.container()
    container.finish_go()
    assert container.holds_container
    assert "container 'web' is held on" in container.describe()
    others = meanwhile(scene.restored)
    container.go()
    others.result()
    assert not container.holds_container
    assert (scene.made.exists(), scene.passing.exists()) == (True, False)
    assert end_of_the_journal() == ("finished", KILLED)
    assert scene.told == [[scene.other_end.fileno()]]


def test_a_held_container_is_dropped_and_undone(scene: Scene) -> None:
    container = scene.container()
    container.finish_go()

    def refused() -> None:
        assert scene.criu.recv(100) == went_on(success=False)
        scene.end()

    others = meanwhile(refused)
    container.abort()
    others.result()
    assert not container.holds_container
    assert (scene.made.exists(), scene.passing.exists()) == (False, True)
    state, told = end_of_the_journal()
    assert state == "aborted"
    assert told is not None
    assert str(scene.made) in told


def test_a_container_that_criu_does_not_resume_is_told(scene: Scene) -> None:
    container = scene.container()
    container.finish_go()

    def fails() -> None:
        scene.runtime.recv(100)
        scene.end()

    others = meanwhile(fails)
    with pytest.raises(ConversationLost):
        container.go()
    others.result()
    assert not container.holds_container
    assert end_of_the_journal() == ("resumed", "it goes on")


def test_a_go_that_the_agent_did_not_pass_on_is_passed_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(successor, "ON_ITS_WAY_S", 0.01)
    scene.journal.entered("resumed")
    container = scene.container()
    assert not container.holds_container
    others = meanwhile(scene.restored)
    container.finish_go()
    others.result()
    assert end_of_the_journal() == ("finished", KILLED)


def test_a_go_that_the_agent_had_passed_on_is_not_said_twice(scene: Scene) -> None:
    scene.journal.entered("resumed")
    scene.runtime.send(went_on())  # the runtime had the notification already
    container = scene.container()
    others = meanwhile(scene.go_on)
    container.finish_go()
    others.result()
    assert end_of_the_journal() == ("finished", KILLED)


def test_a_container_that_runs_already_is_only_kept(scene: Scene) -> None:
    scene.journal.entered("resumed")
    scene.end()
    scene.container().finish_go()
    assert (scene.made.exists(), scene.passing.exists()) == (True, False)
    unseen = "nobody has seen CRIU resume it after the agent's GO"
    assert end_of_the_journal() == ("finished", f"{KILLED}; {unseen}")


def test_the_container_is_held_until_somebody_says_what_becomes_of_it(
    scene: Scene, tmp_path: Path
) -> None:
    holding = meanwhile(lambda: succeed(scene.held, [os.dup(fd) for fd in scene.fds]))
    path = control.control_path(ID)

    def ask(word: str) -> Any:
        while True:
            try:
                return control.ask(path, word)
            except (FileNotFoundError, ConnectionRefusedError):
                continue

    assert "its agent was killed; the coordinator is gone" in ask(control.STATUS).text
    assert ask("what?").outcome is Outcome.REFUSED
    others = meanwhile(scene.restored)
    assert ask(GO).outcome is Outcome.OK
    others.result()
    holding.result()
    assert not path.exists()
    assert end_of_the_journal() == ("finished", KILLED)

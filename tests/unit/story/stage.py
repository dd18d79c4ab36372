"""Two hosts on which migrations are run, and what can be seen of a migration after it.

A migration is run from its command line to its last clean-up.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from checkpoint.criu import features
from checkpoint.criu.parent import kerndat_with_tracking
from checkpoint.engines.registry import ENGINES
from checkpoint.host.paths import RUN
from migrate.agent import control
from migrate.agent.server import Server
from migrate.cli import ctl, move, recover
from migrate.decisions.state import State
from migrate.limits import Limits
from tests.fakes import task
from tests.unit.story.channel import Agent, Link, Straight, Wire
from tests.unit.story.engine import NAME, Engine, World
from tests.unit.story.processes import (
    LIMIT_S,
    PROGRAM,
    Host,
    counter,
    counts,
    memory,
    state_of,
    until,
)
from transport.destination import Destination
from transport.lasting_descriptors import LastingDescriptors

PR_SET_CHILD_SUBREAPER = 36
#: Limits that no migration on the stage uses a tenth of.
PATIENT = Limits(
    arm_s=5,
    dump_s=5,
    death_s=5,
    batch_s=5,
    restore_s=5,
    held_s=5,
    end_s=5,
    resume_s=5,
    go_s=15,
    ask_s=5,
    abort_s=15,
    thaw_s=1,
    fill_s=5,
)
#: Forty times what a container takes to count on, in seconds.
A_LOOK_S = 0.02
STATES = {state.value for state in State}
#: A connection that is lost here stays lost.
NO_RECONNECTION = ("--reconnect-timeout", "0")


#: Shell scripts that are found on PATH. The ssh(1) among them connects to nothing, so pages go over
#: the connection that is there.
PROGRAMS = {
    "criu": 'case "$*" in --version) echo "Version: 4.2.1";; *nftables) ;; *) exit 1;; esac',
    "runc": "echo runc version 1.3.0",
    "ssh": "exit 255",
}


@dataclass(kw_only=True)
class Ending:
    """What can be seen of a migration after it.

    `running` are the hosts where the container counts on. With `held`, the target's agent holds the
    container and answers questions about it. `said` is what a person reads, and `states` are the
    states in it.
    """

    code: int
    report: dict[str, Any]
    said: str
    states: list[str]
    running: set[str]
    held: bool


class Play:
    """One migration of the container of a world."""

    def __init__(self, world: World, wire: Wire, limits: Limits, options: tuple[str, ...]) -> None:
        self._world, self._wire, self._limits, self._options = world, wire, limits, options
        self._links: list[Link] = []
        self._threads = set(threading.enumerate())
        self._descriptors = descriptors()
        self._files = files(world.source) | files(world.target)
        self.id = ""

    def run(self) -> Ending:
        """Run the command line, and wait until nothing goes on any more by itself."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            argv = [NAME, "beta", "--engine", "runc", "--json", *NO_RECONNECTION, *self._options]
            code = move.main(argv, connect=self._connect, limits=self._limits)
        gc.enable()  # an agent leaves the collector off, as its process ends
        report = json.loads(out.getvalue())
        self.id = str(report["migration_id"])
        held = self.settled()
        words = [line.removeprefix("migrate: ") for line in err.getvalue().splitlines()]
        return Ending(
            code=code,
            report=report,
            said=err.getvalue(),
            states=[word for word in words if word in STATES],
            running=self.running(),
            held=held,
        )

    @contextlib.contextmanager
    def _connect(self, destination: Destination) -> Iterator[Link]:
        self._world.point("connect")
        link = Link(self._world.target, self._serve, self._wire, destination)
        self._links.append(link)
        try:
            yield link
        finally:
            link.close()

    def _serve(self, fd: int) -> None:
        self._world.target.enter()
        Server(LastingDescriptors(fd, fd), self._limits).serve()

    def settled(self) -> bool:
        """Wait until every agent has ended or holds the container, and return whether one does."""
        until(lambda: all(self._is_at_rest(agent) for agent in self._agents()), "an agent at rest")
        return not self.agents_ended()

    def agents_ended(self) -> bool:
        """Return whether no agent of the migration runs any more."""
        return not any(agent.lives() for agent in self._agents())

    def _agents(self) -> list[Agent]:
        return [agent for link in self._links for agent in link.agents]

    def _is_at_rest(self, agent: Agent) -> bool:
        return not agent.lives() or "the coordinator is gone" in self.ask(control.STATUS).text

    def ask(self, word: str) -> control.Reply:
        """Return the agent's answer to an operator on the target.

        The answer has no text if no agent listens.
        """
        with contextlib.suppress(OSError):
            return self._world.target.do(lambda: control.ask(control.control_path(self.id), word))
        return control.Reply(outcome=control.Outcome.FAILED, text="")

    def recover(self, *how: str) -> int:
        """Run `migratectl recover` on the target, and return its exit code."""
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return self._world.target.do(lambda: ctl.main(["recover", self.id, *how]))

    def recover_from_source(self) -> tuple[int, str]:
        """Run `migratectl recover` on the source; return its exit code and what a person reads."""
        said, connect = io.StringIO(), self._connect
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            patch.setattr(recover, "by_ssh", connect)
            code = ctl.main(["recover", self.id])
        return code, said.getvalue()

    def begin_another(self) -> str:
        """Begin a migration of no container on the source; return what a person reads."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            move.main(["none", "beta", "--engine", "runc"], connect=self._connect)
        gc.enable()
        return said.getvalue()

    def running(self) -> set[str]:
        """Return the hosts where the container runs."""
        running = {"source"} if counts(self._world.init.pid, LIMIT_S) else set()
        if self.restored:
            # A container that was told to go has time to begin. For any other a look is enough.
            told = "resumed" in self._world.events("target")
            running |= (
                {"target"} if counts(self.restored[-1], LIMIT_S if told else A_LOOK_S) else set()
            )
        return running

    @property
    def restored(self) -> list[int]:
        """Return the pids of all processes that CRIU restored on the target."""
        return [line["restored"] for line in self._world.lines() if "restored" in line]

    def check_memory(self) -> None:
        """Check that the container on the target has the memory of that on the source."""
        found, page = memory(self.restored[-1]), task.PAGE_SIZE
        assert found[page:] == b"".join(task.pattern(number) for number in range(1, task.PAGES))

    def _left_open(self) -> set[tuple[str, str]]:
        now = descriptors()
        return (
            set(now.items()) - set(self._descriptors.items())
            if len(now) > len(self._descriptors)
            else set()
        )

    def check_nothing_left(self) -> None:
        """Check that no thread, descriptor, file, mount or process of the migration is left."""
        until(lambda: set(threading.enumerate()) <= self._threads, "its threads to end")
        for child in self._world.children:
            child.wait(LIMIT_S)
            child.close()
        self._world.children.clear()
        for line in self._world.lines():
            if "criu" in line:
                until(partial(has_ended, line["criu"]), "its CRIU to end")
        with contextlib.suppress(AssertionError):
            until(lambda: not self._left_open(), "its descriptors to be closed")
        assert not (left := self._left_open()), left
        for host in (self._world.source, self._world.target):
            assert not (new := files(host) - self._files), new
            assert self.id not in Path(host.path("/proc/self/mountinfo")).read_text()


def files(host: Host) -> set[Path]:
    """Return the paths in the product's directory on a host, without journals."""
    found = Path(host.path(str(RUN)))
    kept = found / "journal"
    return {path for path in found.rglob("*") if not path.is_dir() and path.parent != kept}


def descriptors() -> dict[str, str]:
    """Return {descriptor: what it is open on} of this process."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


@dataclass(kw_only=True)
class Stage:
    """The two hosts, which stay from migration to migration."""

    source: Host
    target: Host
    directory: Path
    moves: int = 0

    @contextlib.contextmanager
    def empty_world(self) -> Iterator[World]:
        """Yield two hosts without a container. All their processes end after the block."""
        self.moves += 1
        directory = self.directory / str(self.moves)
        (directory / "root").mkdir(parents=True)
        with contextlib.closing(self.source.make("nothing")) as nobody:
            world = World(directory=directory, source=self.source, target=self.target, init=nobody)
            ENGINES["runc"] = lambda: Engine(world)
            try:
                yield world
            finally:
                end(world)
                shutil.rmtree(directory)

    @contextlib.contextmanager
    def world(self, *, tmpfs: bool = False) -> Iterator[World]:
        """Yield two hosts, with a container that counts on the source.

        All their processes end after the block.
        """
        self.moves += 1
        directory = self.directory / str(self.moves)
        root = directory / "root"
        root.mkdir(parents=True)
        init = self.source.make("init", root=str(root), tmpfs=tmpfs)
        world = World(directory=directory, source=self.source, target=self.target, init=init)
        ENGINES["runc"] = lambda: Engine(world)
        try:
            until(lambda: counter(init.pid) is not None or init.poll() is not None, "a container")
            assert counts(init.pid, LIMIT_S), f"the container ended with {init.poll()}"
            yield world
        finally:
            end(world)
            init.close()

    @contextlib.contextmanager
    def move(
        self,
        world: World,
        wire: Wire | None = None,
        *,
        limits: Limits = PATIENT,
        options: tuple[str, ...] = (),
    ) -> Iterator[Play]:
        """Yield a migration that is ready to be run.

        A container that its agent holds after the block is dropped. The agents have ended then, so
        the next migration finds no lock of this one.
        """
        play = Play(world, wire or Straight(), limits, options)
        try:
            yield play
        finally:
            play.ask(control.ABORT)
            until(play.agents_ended, "the agents to end")


def end(world: World) -> None:
    """End the processes that CRIU and the engines started."""
    for child in world.children:
        child.close()
    for line in world.lines():
        for pid in (line.get("criu"), line.get("restored")):
            if pid is not None:
                end_orphan(pid)


def is_ours(pid: int) -> bool:
    """Return whether a pid is still that of a process of warm.py."""
    try:
        return (
            PROGRAM.name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
            or state_of(pid) == "Z"
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, though its status may not have been collected."""
    return state_of(pid) in ("Z", "")


def end_orphan(pid: int) -> None:
    """End a process of warm.py that this process has inherited.

    The parent of such a process was a runtime that has ended.
    """
    if not is_ours(pid):
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until(partial(has_ended, pid), "what was restored to die")
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


@contextlib.contextmanager
def stage(directory: Path) -> Iterator[Stage]:
    """Yield the stage, with programs on PATH and a garbage collector that has little to do."""
    programs = directory / "bin"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o700)
    libc = ctypes.CDLL(None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        patch.setitem(ENGINES, "runc", ENGINES["runc"])
        features.has.cache_clear()
        kerndat_with_tracking.cache_clear()
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        gc.collect()
        gc.freeze()
        try:
            with (
                contextlib.closing(Host("source")) as source,
                contextlib.closing(Host("target")) as target,
                source.visited(),
            ):
                yield Stage(source=source, target=target, directory=directory)
        finally:
            gc.unfreeze()
            libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
            features.has.cache_clear()
            kerndat_with_tracking.cache_clear()

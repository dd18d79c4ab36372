"""The successor of an agent that was killed while it held a container.

The successor is the keeper (checkpoint/memory/pager/keeper.py), a process that the agent forked
before the freeze. Once the container is held, the agent hands over what the container's life hangs
on: the sockets of the conversation with CRIU, which kills what it has restored when they close; the
engine's restore; the locks; and the journal, which has the things that the agent has made. As long
as the agent lives, the keeper uses none of these.

The successor does what an agent does that has lost its coordinator: it holds the container until
the control socket says GO or ABORT (control.py), whoever says it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from checkpoint.criu.edits import Edits
from checkpoint.criu.interposer import Conversation, Interposer
from checkpoint.criu.roles import RestoreRole
from checkpoint.errors import CheckpointError, ConversationLost, reason
from checkpoint.host import lock
from checkpoint.host.ram_directory import remove_sockets
from checkpoint.host.ready import ready
from checkpoint.host.worker import Worker
from checkpoint.memory.pager.keeper import Keeper
from checkpoint.network.model import Network
from migrate.agent.control import ControlSocket, control_path
from migrate.agent.restore import Handover
from migrate.agent.state import State
from migrate.journal import cut_off
from migrate.journal.book import MigrationJournal
from migrate.journal.records import TARGET
from migrate.limits import Limits
from migrate.network.late_frames import Frame
from migrate.network.target import TargetNetwork

#: How long it may take until the answer of a killed agent to CRIU shows: the next message of CRIU
#: or of the runtime comes within milliseconds.
ON_ITS_WAY_S = 0.2
#: The time after which a control socket that could not be made is tried again.
AGAIN_S = 1.0
#: What the journal says of a migration that ended without its agent.
KILLED = "the agent was killed while it held the container"


@dataclass(frozen=True, kw_only=True)
class Held:
    """A held container, as the agent hands it over. All of it can be pickled.

    `journal`, `runtime`, `criu`, `criu_pidfd`, `engine_pidfd`, `engine_fds` and `kept` are numbers
    of the agent's descriptors; those in `kept` are only kept open. `waiting` is CRIU's notification
    at which the conversation is held. `engine_part` goes on with the engine's restore, and takes
    `engine_fds`.
    """

    migration_id: str
    container_name: str
    directory: Path
    network: Network | None
    runtime_pid: int
    criu_pid: int
    waiting: bytes
    limits: Limits
    journal: int
    runtime: int
    criu: int
    criu_pidfd: int
    engine_pidfd: int
    engine_part: Callable[[list[int]], None] | None
    engine_fds: tuple[int, ...]
    kept: tuple[int, ...]

    @property
    def descriptors(self) -> list[int]:
        own = [self.journal, self.runtime, self.criu, self.criu_pidfd, self.engine_pidfd]
        return [*own, *self.engine_fds, *self.kept]


def hand_over(found: Handover, keeper: Keeper, locks: list[int], **fields: Any) -> None:
    """Hand a held container over, so that the keeper holds it if this process is killed.

    `locks` are the descriptors of the migration's locks, and `fields` are the fields of Held that
    are not in `found`.
    """
    conversation = found.conversation
    engine_pidfd = os.pidfd_open(found.engine_pid)
    try:
        held = Held(
            network=found.network,
            runtime_pid=conversation.runtime_pid,
            criu_pid=conversation.criu_pid,
            waiting=conversation.held,
            runtime=conversation.runtime.fileno(),
            criu=conversation.criu.fileno(),
            criu_pidfd=conversation.criu_pidfd,
            engine_pidfd=engine_pidfd,
            engine_part=found.engine_part,
            engine_fds=tuple(found.engine_fds),
            kept=(*found.kept_fds, *locks),
            **fields,
        )
        keeper.hold(held, held.descriptors)
    finally:
        os.close(engine_pidfd)


def succeed(held: Held, fds: list[int]) -> None:
    """Hold a container in the place of the agent that was killed, until it runs or is dropped.

    `fds` are copies of `held.descriptors`.
    """
    copy = dict(zip(held.descriptors, fds, strict=True))
    container = _taken_up(held, copy)
    container.finish_go()
    while container.holds_container:
        try:
            with ControlSocket(control_path(held.migration_id)) as control:
                while not control.answer(container, link_alive=False):
                    pass
        except Exception as error:  # noqa: BLE001  (to end here would drop the container)
            container.say(f"cannot be asked: {reason(error)}")
            time.sleep(AGAIN_S)
    remove_sockets(held.directory)
    for fd in held.kept:
        os.close(copy[fd])
    with contextlib.suppress(OSError):  # the next task removes the files then
        lock.sweep()


def _taken_up(held: Held, copy: dict[int, int]) -> HeldContainer:
    """Return the container once the journal can be read. To give up would drop the container."""
    while True:
        try:
            return HeldContainer(held, copy)
        except (CheckpointError, OSError):
            time.sleep(AGAIN_S)


class HeldContainer:
    """The container that is held in the place of a killed agent (Held of control.py).

    `copy` has this process's descriptor for each of the agent's. Raises OSError or DataInvalid if
    the journal cannot be read; then no descriptor was touched.
    """

    def __init__(self, held: Held, copy: dict[int, int]) -> None:
        self._held = held
        self._said: list[str] = []
        self._journal = MigrationJournal.inherited(held.migration_id, TARGET, copy[held.journal])
        #: The agent had its GO, and may have passed it on.
        self._was_told = self._journal.account().state == State.RESUMED.value
        self.holds_container = not self._was_told
        self._engine_pidfd = copy[held.engine_pidfd]
        self._tidy = contextlib.ExitStack()
        self._role = RestoreRole(Edits(nftables=False, one_cgroup=False), held.directory)
        self._conversation = Conversation(
            runtime=socket.socket(fileno=copy[held.runtime]),
            criu=socket.socket(fileno=copy[held.criu]),
            runtime_pid=held.runtime_pid,
            criu_pid=held.criu_pid,
            criu_pidfd=copy[held.criu_pidfd],
            held=held.waiting,
        )
        if held.engine_part is not None:
            part = partial(held.engine_part, [copy[fd] for fd in held.engine_fds])
            Worker("engine's part of the restore", part)

    def finish_go(self) -> None:
        """Go on with the conversation with CRIU. If the agent had its GO, resume the container."""
        gone_on = self._was_told and self._has_gone_on()
        relay = Interposer(self._held.directory, self._role).take_over
        go_on = partial(relay, self._conversation, RestoreRole.kind, held=not gone_on)
        Worker("successor", go_on)
        if self._was_told:
            self.go()

    def go(self, frames: Iterable[Frame] = ()) -> None:
        """Resume the container and make it reachable, as Incoming.go does.

        Raises ConversationLost if CRIU does not report the resume.
        """
        self.holds_container = False
        self._journal.resumed(State.RESUMED.value)
        network = self._network()
        if network is not None:
            for index, frame in frames:
                network.bring(index, frame)
            self._role.at["network-unlock"] = network.take_frames
        self._role.done_gate.open()
        with self._noted("the container's links"):
            if network is not None:
                network.connect()
        try:
            self._role.wait_resumed(self._held.limits.resume_s)
        except ConversationLost:
            if not self._was_told:
                raise
            self.say("nobody has seen CRIU resume it after the agent's GO")
        with self._noted("the container's network"):
            if network is not None:
                network.give_frames()
                network.announce()
        with self._noted("the container's engine"):
            self._wait_engine(self._held.limits.resume_s)
        with self._noted("the container's engine"):
            self._said += cut_off.settle(self._journal.account())
        self._tidy.close()
        self._end(State.FINISHED)

    def abort(self) -> None:
        """Drop the container, and undo what the agent has made."""
        self.holds_container = False
        self._journal.entered(State.ABORTED.value)
        self._role.refuse()
        if not self._role.end(self._held.limits.end_s):
            self.say("CRIU did not end, and was killed")
        with self._noted("the engine's restore"):
            self._wait_engine(self._held.limits.end_s)
        if cut_off.undo(self._journal.account(), self.say):
            self._end(State.ABORTED)

    def describe(self) -> str:
        """Return one line about the container, for people."""
        return (
            f"container {self._held.container_name!r} is held on {platform.node()},"
            " restored but not running; its agent was killed"
        )

    def say(self, text: str) -> None:
        """Keep a line for the journal's end. There is nobody to tell it to."""
        self._said.append(text)

    def _network(self) -> TargetNetwork | None:
        with self._noted("the container's network"):
            if self._held.network is not None:
                return TargetNetwork.taken_over(self._held.network, self._tidy, self.say)
        return None

    def _has_gone_on(self) -> bool:
        """Return whether the agent has passed its GO on before it was killed."""
        sockets = (self._conversation.criu, self._conversation.runtime)
        waiting = ready(*(each.fileno() for each in sockets), timeout_s=ON_ITS_WAY_S)
        return bool(waiting) or not self._conversation.criu_lives()

    def _wait_engine(self, timeout_s: float) -> None:
        if not ready(self._engine_pidfd, timeout_s=timeout_s):
            raise ConversationLost(f"the engine's restore did not end in {timeout_s:g} s")

    def _end(self, state: State) -> None:
        self._journal.end(state.value, "; ".join([KILLED, *self._said]))

    @contextlib.contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        """Keep a line about a failure of the block, and go on."""
        try:
            yield
        except (CheckpointError, OSError) as error:
            self.say(f"{what}: {reason(error)}")

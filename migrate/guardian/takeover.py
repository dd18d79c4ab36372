"""The end of a migration on its source, by whoever finds its coordinator dead.

decisions/takeover.py says what is to be done; this module looks, and does it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from checkpoint.criu import rescue
from checkpoint.errors import CheckpointError, reason
from checkpoint.host import processes
from checkpoint.host.worker import Worker
from migrate.agent import asking, control
from migrate.agent.client import AgentClient
from migrate.decisions.state import State
from migrate.decisions.takeover import Act, Life, Seen, Told, next_act
from migrate.journal import cut_off
from migrate.journal.account import furthest_state
from migrate.journal.book import MigrationJournal
from migrate.network.source import SourceFrames
from migrate.wire import protocol
from transport.connection import Connection

#: How long CRIU may take to thaw the container and to end, until it is killed.
THAW_S = 0.15
#: How long the target is tried again, and the first and the longest pause between two tries.
PATIENCE_S, FIRST_PAUSE_S, LONGEST_PAUSE_S = 600.0, 0.2, 10.0
LOOK_AGAIN_S = 0.002
#: How a migration has ended whose target has lost the container after its death on the source.
LOST = "lost"
#: What the journal says of a migration that ended without its coordinator.
TAKEN_OVER = "the program that carried it out was gone or hung, and its guardian ended it"


@dataclass
class Criu:
    """CRIU of the source's dump, and the conversation with it, as far as they were handed over."""

    pidfd: int = -1
    socket: socket.socket | None = None

    def let_go(self) -> None:
        """Close the conversation: CRIU undoes what it has done, and thaws the container."""
        if self.socket is not None:
            with contextlib.suppress(OSError):  # it has ended
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()
            self.socket = None

    def close(self) -> None:
        self.let_go()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Remains(Protocol):
    """What is known of the container on the source besides the journal."""

    @property
    def pid(self) -> int:
        """The pid of the container's init."""

    def take_links_down(self) -> None:
        """Take the host's ends of the container's links down."""

    def end_monitor(self) -> None:
        """End what the engine has started to watch the container (Engine.end_monitor)."""

    def record_ended(self) -> None:
        """Have the engine notice that the container has ended (Engine.record_ended)."""


class Target:
    """The target of a migration, reached anew for each word. `tell` gets lines for people."""

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Connection]],
        migration_id: str,
        tell: Callable[[str], None],
    ) -> None:
        self._connect, self._id, self._tell = connect, migration_id, tell
        self._approached: Worker[_Reached] | None = None

    def approach(self) -> None:
        """Make the way to the target already, in a thread; the next word takes that way."""
        self._approached = Worker("approach", self._reach)

    def say(self, word: str, frames: Sequence[tuple[int, bytes]] = ()) -> Told:
        """Say a word of control.py to whatever holds the container there. `frames` go with GO."""
        try:
            answer = self._answer(word, frames)
        except Exception as error:  # noqa: BLE001  (it is not known to have obeyed)
            self._tell(reason(error))
            return Told.UNREACHED
        told = asking.TOLD[answer.outcome]
        if told is not Told.OBEYED and word == control.GO:
            self._tell(answer.text)
        return told

    def _answer(self, word: str, frames: Sequence[tuple[int, bytes]]) -> protocol.Recovered:
        approached, self._approached = self._approached, None
        if approached is not None:
            reached = approached.result()
            with reached.ended:
                return asking.say(reached.agent, self._id, word, frames)
        with self._connect() as connection:
            return asking.answer(connection, self._id, word, self._tell, frames)

    def _reach(self) -> _Reached:
        """Connect, and start an agent there."""
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(self._connect())
            agent = stack.enter_context(asking.agent(connection, self._tell))
            return _Reached(agent, stack.pop_all())


@dataclass(frozen=True)
class _Reached:
    """An agent that was started to say a word there, and the end of it and of its connection."""

    agent: AgentClient
    ended: contextlib.ExitStack


class Takeover:
    """The end of one migration on its source.

    `frames` came for the container in the freeze. `late`: somebody may have started the container
    on the source again since it was killed. A `target` that does not obey is tried again for
    `patience_s` seconds. `why` is what the journal says of the end. `said` are lines for people.
    """

    def __init__(
        self,
        journal: MigrationJournal,
        source: Remains,
        criu: Criu,
        target: Target,
        *,
        frames: SourceFrames | None = None,
        late: bool = False,
        why: str = TAKEN_OVER,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._journal, self._source, self._criu, self._target = journal, source, criu, target
        self._turned_back = self._undone = self._anew = False
        self._late = late
        self._all_undone = True
        self._told: Told | None = None
        self._until_s = time.monotonic() + patience_s
        self._pause_s = FIRST_PAUSE_S
        self._why = why
        self._frames, self._kept = frames, list[tuple[int, bytes]]()
        self.said: list[str] = []
        self._acts: dict[Act, Callable[[], None]] = {
            Act.TURN_BACK: self._turn_back,
            Act.THAW: self._thaw,
            Act.BURY: self._bury,
            Act.WAIT: lambda: time.sleep(LOOK_AGAIN_S),
            Act.UNDO: self._undo,
            Act.ABORT: lambda: self._tell(control.ABORT_PROVED, []),
            Act.GO: self._go,
        }

    def run(self) -> Act:
        """End the migration as far as it can be ended, and return the last act."""
        if self._journal.account().ended is not None:
            return Act.END_BACK
        while (act := next_act(self._see())) in self._acts:
            self._acts[act]()
        if act is Act.FINISH:
            self._finish()
        elif act is Act.END_BACK and self._all_undone:
            self._end(State.ROLLED_BACK.value)
        elif act is Act.GIVE_UP:
            self._undo()
            if self._all_undone:
                self._end(LOST)
        return act

    def _see(self) -> Seen:
        found = self._journal.account()
        furthest = furthest_state(found, rebooted=cut_off.rebooted(found))
        return Seen(
            state=State.ROLLING_BACK.value if self._turned_back else furthest,
            life=Life.ANEW if self._anew else cut_off.life(found.begun),
            criu=self._criu.pidfd >= 0,
            undone=self._undone,
            told=self._told,
            patient=time.monotonic() < self._until_s,
        )

    def _turn_back(self) -> None:
        self._turned_back = True  # also if the journal cannot be written any more
        self._journal.entered(State.ROLLING_BACK.value)

    def _thaw(self) -> None:
        self._criu.let_go()
        pidfd, pid = self._criu.pidfd, self._source.pid
        with self._noted("the container's network may still be locked"):
            if not rescue.end(pidfd, THAW_S):
                self.said.append("CRIU did not end, and was killed")
                rescue.unlock(processes.in_pid_namespace_of(pid))
        self._criu.close()

    def _bury(self) -> None:
        rescue.end(self._criu.pidfd, 0)
        self._criu.close()

    def _undo(self) -> None:
        self._undone, self._all_undone = True, False
        with self._noted("not undone on the source"):
            self._all_undone = cut_off.undo(self._journal.account(), self.said.append)

    def _go(self) -> None:
        # The first word comes at once: an engine that hangs must not hold the container.
        if (self._late or self._told is not None) and self._runs_again():
            return
        # The link of the source goes down before that of the target comes up.
        with self._noted("the container's links on the source were not taken down"):
            self._source.take_links_down()
        with self._noted("frames that came in the freeze were lost; their senders try again"):
            self._kept += self._frames.take() if self._frames is not None else []
        first = self._told is None
        self._tell(control.GO, self._kept)
        if self._told is Told.OBEYED:
            self._journal.entered(State.RESUMED.value)
        elif first:
            with self._noted("the source's engine may start the container again"):
                self._source.record_ended()

    def _runs_again(self) -> bool:
        begun = self._journal.account().begun
        with self._noted("the source's engine could not be asked whether it runs the container"):
            if (pid := cut_off.runs_again(begun)) is not None:
                self._anew = True
                self.said.append(
                    f"container {begun.container_name!r} was started here again (process {pid}),"
                    " and must not run twice: stop it, and recover the move, or have the copy"
                    f" dropped by 'migratectl recover {begun.migration_id} --abort'"
                )
        return self._anew

    def _tell(self, word: str, frames: Sequence[tuple[int, bytes]]) -> None:
        if self._told is not None:
            time.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._told = self._target.say(word, frames)

    def _finish(self) -> None:
        """Remove what the container has left. What stays is tried again by the next migration."""
        left = ["everything"]
        with self._noted("not cleaned up on the source"):
            self._source.end_monitor()
            left = cut_off.settle(self._journal.account())
            self.said += left
        if left:
            self._journal.entered(State.RESUMED.value)
        else:
            self._end(State.DONE.value)

    def _end(self, outcome: str) -> None:
        self._journal.end(outcome, "; ".join([self._why, *self.said]))

    @contextlib.contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        """Keep a line about a failure of the block, and go on."""
        try:
            yield
        except (CheckpointError, OSError) as error:
            self.said.append(f"{what}: {reason(error)}")

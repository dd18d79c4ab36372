"""A migration whose coordinator, CRIU and container's init are small processes.

All that is done for it, and all that its target is told, is a line in one file.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from checkpoint.criu.interposer import Conversation
from checkpoint.files.made import MadeDirectory
from checkpoint.host import proc
from checkpoint.host.identity import PathRecord
from checkpoint.host.lock import Locks
from checkpoint.host.ready import ready
from migrate.agent.control import Outcome
from migrate.guardian.handle import Guardian
from migrate.journal import book
from migrate.journal.book import MigrationJournal, process_record
from migrate.journal.records import SOURCE
from migrate.network import late_frames
from migrate.network.source import SourceFrames
from migrate.wire import protocol
from tests.unit.helpers.apart import TIMEOUT_S, Apart
from tests.unit.helpers.begun import ID, begun
from tests.unit.migrate.answering import Process
from transport.connection import Connection
from transport.framing import Descriptors, FrameStream

#: What the coordinator has kept of the frames that came for a container without interfaces.
NO_FRAMES = SourceFrames.handed_over([])
CONNECTIONS = "connections"


class StandIn(Apart):
    """A process in the place of CRIU, which ends with status 0 when its peer is gone.

    A `deaf` one does not end by itself. `conversation` is that of the migration with it.
    """

    def __init__(self, *, deaf: bool = False) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def run() -> None:
            ours.close()
            theirs.recv(1)
            while deaf:
                signal.pause()

        super().__init__(run)
        self.conversation = Conversation(
            runtime=theirs,
            criu=ours,
            runtime_pid=os.getpid(),
            criu_pid=self.pid,
            criu_pidfd=self.pidfd,
        )

    def let_go(self) -> None:
        """Leave the conversation to the processes that were forked meanwhile."""
        self.conversation.criu.close()
        self.conversation.runtime.close()

    def close(self) -> None:
        self.let_go()
        super().close()


class Left:
    """What is left of the container, as Remains of guardian/takeover.py.

    What is done to it is a line in the file `log`. What `fails` says is done by raising OSError.
    """

    def __init__(self, pid: int, log: Path, fails: tuple[str, ...] = ()) -> None:
        self.pid, self._log, self._fails = pid, log, fails

    def take_links_down(self) -> None:
        self._do("links down")

    def end_monitor(self) -> None:
        self._do("monitor ended")

    def record_ended(self) -> None:
        self._do("end recorded")

    def _do(self, what: str) -> None:
        add(self._log, what)
        if what in self._fails:
            raise OSError(f"no {what}")


class Patient(Process):
    """An agent's process on the target, whose answers come in time."""

    def patience(self, seconds: float | None) -> None: ...


class Far:
    """A target, reached by `connect`, whose agent answers each word by the next of `outcomes`.

    The last of them is the answer to all later words. None: the target is not reached. The words
    are lines in the file `log`, and so are the frames that come with them. Each connection is a
    line in the file `connections`.
    """

    def __init__(self, log: Path, *outcomes: Outcome | None) -> None:
        self._log, self._outcomes = log, list(outcomes)
        self._connections = log.with_name(CONNECTIONS)

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        add(self._connections, "one")
        if outcome is None:
            add(self._log, "not reached")
            raise OSError("no route to host")
        ours, theirs = socket.socketpair()
        frames = FrameStream(Descriptors(theirs.fileno(), theirs.fileno()))

        def answer() -> None:
            asked = protocol.decode(*frames.receive(), protocol.Command)
            assert isinstance(asked, protocol.Recover)
            assert asked.migration_id == ID
            add(self._log, asked.word)
            for index, frame in late_frames.split(asked.frames, asked.payload):
                add(self._log, f"frame {index} {bytes(frame).decode()}")
            frames.send(protocol.encode(recovered(outcome)))

        class Connected:
            def run(self, command: str) -> Process:
                return Patient(ours)

        with ours, theirs:
            thread = threading.Thread(target=answer)
            thread.start()
            yield cast(Connection, Connected())
            thread.join()


def kept(*frames: bytes) -> SourceFrames:
    """Return what a coordinator has kept of the frames that came. It is open until that ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    with theirs:
        for frame in frames:
            theirs.send(frame)
    return SourceFrames.handed_over([ours.detach()])


def recovered(outcome: Outcome) -> protocol.Recovered:
    """Return the answer of an agent that was sent to say a word."""
    return protocol.Recovered(
        state=None, life=None, goes_on=False, outcome=outcome.value, text="far"
    )


class Scene:
    """One migration of a container whose init is the process `init`."""

    def __init__(self, directory: Path, init: int) -> None:
        self._log, self.init = directory / "done", init
        self.outcomes: tuple[Outcome | None, ...] = (Outcome.OK,)
        self.locks: list[int] = []
        self._others: list[StandIn | Coordinator] = []

    def left(self, *fails: str) -> Left:
        return Left(self.init, self._log, fails)

    def far(self, *outcomes: Outcome | None) -> Far:
        return Far(self._log, *outcomes)

    def guardian(self) -> Guardian:
        """Return a new guardian of the migration, of which this process is the coordinator."""
        return Guardian(
            ID,
            self.left(),
            Locks(dict.fromkeys(self.locks, Path())),
            self.far(*self.outcomes).connect,
        )

    def journal(self, *states: str) -> MigrationJournal:
        """Begin the source's journal of the migration, and enter states."""
        init = process_record(self.init)
        journal = MigrationJournal(begun(boot_id=proc.boot_id(), init=init))
        for state in states:
            journal.entered(state)
        return journal

    def journal_left(
        self, *states: str, enter: Callable[[MigrationJournal], object] = lambda _: None
    ) -> MigrationJournal:
        """Return the journal of a coordinator that has entered these states, and ended.

        `enter` makes the coordinator's last entries.
        """
        with self.journal(*states) as journal:
            enter(journal)
            return MigrationJournal.inherited(ID, SOURCE, os.dup(journal.fileno()))

    def criu(self, *, deaf: bool = False) -> StandIn:
        """Start a process in the place of CRIU."""
        self._others.append(found := StandIn(deaf=deaf))
        return found

    def coordinator(self, act: Callable[[Guardian], object], *, hangs: bool = False) -> Coordinator:
        """Start a coordinator, have it act, and return it when it has, unless it hangs in that."""
        self._others.append(found := Coordinator(self, act))
        for other in self._others:
            if isinstance(other, StandIn):
                other.let_go()
        if not hangs:
            found.await_act()
        return found

    def done(self) -> list[str]:
        """Return what was done, and what the target was told."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def connections(self) -> int:
        """Return how often the target was connected to."""
        file = self._log.with_name(CONNECTIONS)
        return len(file.read_text().splitlines()) if file.exists() else 0

    def close(self) -> None:
        for other in self._others:
            other.close()


class Coordinator(Apart):
    """A process that has a guardian, acts, and then waits until it is told to leave the context."""

    def __init__(self, scene: Scene, act: Callable[[Guardian], object]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(TIMEOUT_S)

        def run() -> None:
            self._socket.close()
            with scene.guardian() as guardian:
                theirs.send(str(guardian.pid).encode())
                act(guardian)
                theirs.send(b"acted")
                theirs.recv(20)

        super().__init__(run)
        theirs.close()
        self._guardian = os.pidfd_open(int(self._socket.recv(20)))

    def await_act(self) -> None:
        assert self._socket.recv(20) == b"acted", "it has failed"

    def leave(self) -> None:
        """Have the coordinator leave the context and end."""
        self._socket.send(b"leave")

    def guardian_lives(self) -> bool:
        return not ready(self._guardian, timeout_s=0)

    def guardian_ended(self) -> bool:
        """Wait for the end of the guardian, and return whether it came."""
        return bool(ready(self._guardian, timeout_s=TIMEOUT_S))

    def signal_guardian(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._guardian, number)

    def kill_guardian(self) -> None:
        self.signal_guardian(signal.SIGKILL)
        assert self.guardian_ended()

    def close(self) -> None:
        super().close()
        self.kill_guardian()
        os.close(self._guardian)
        self._socket.close()


def add(log: Path, what: str) -> None:
    """Add a line to a file."""
    with log.open("a") as file:
        file.write(f"{what}\n")


def end() -> tuple[str | None, str | None]:
    """Return the last state of the only journal, and what it says of its end, if it has ended."""
    [found] = book.listed()
    return found.account.state, None if found.account.ended is None else found.account.ended.error


class Made:
    """Two directories that the migration has made: one for ever, one until it succeeds."""

    def __init__(self, directory: Path) -> None:
        self.stays, self.passes = directory / "stays", directory / "passes"

    def enter(self, journal: MigrationJournal) -> None:
        for path in (self.stays, self.passes):
            path.mkdir()
            thing = MadeDirectory(path=PathRecord.of(path), whole=True)
            journal.made(thing, passing=path is self.passes)

    def there(self) -> tuple[bool, bool]:
        return self.stays.exists(), self.passes.exists()

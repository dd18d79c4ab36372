"""Processes of a host that hold a container, each in its own way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from checkpoint.host import proc
from checkpoint.host.ready import ready
from migrate.agent import control
from migrate.agent.control import ABORT, GO, ControlSocket
from migrate.journal.book import MigrationJournal
from migrate.journal.records import TARGET, ProcessRecord
from migrate.network.late_frames import Frame
from tests.unit.helpers.apart import Apart, soon
from tests.unit.helpers.begun import ID, begun

#: include/uapi/linux/net.h: the socket listens.
SO_ACCEPTCON = 1 << 16


class Held:
    """A held container that may be resumed and dropped."""

    def __init__(self) -> None:
        self.holds_container, self.did = True, ""
        self.frames: list[tuple[int, bytes]] = []

    def go(self, frames: Iterable[Frame] = ()) -> None:
        self.holds_container, self.did = False, GO
        self.frames = [(index, bytes(frame)) for index, frame in frames]

    def abort(self) -> None:
        self.holds_container, self.did = False, ABORT

    def describe(self) -> str:
        return "held"


def hold() -> None:
    """Hold a container, and answer at the control socket until the hold has ended."""
    held = Held()
    with ControlSocket(control.control_path(ID)) as listening:
        while held.holds_container:
            listening.answer(held, link_alive=False)


def listens() -> bool:
    """Return whether somebody listens at the control socket, and ask nothing (proc_net(5))."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    here = [line.split() for line in lines if line.endswith(f" {control.control_path(ID)}")]
    return any(int(flags, 16) & SO_ACCEPTCON for _, _, _, flags, *_ in here)


def hang() -> None:
    """Be an agent that hangs: it listens, and answers nothing."""
    with ControlSocket(control.control_path(ID)):
        signal.pause()


@contextlib.contextmanager
def held_here() -> Iterator[Held]:
    """Hold a container in a thread of this process."""
    held = Held()
    with ControlSocket(control.control_path(ID)) as listening:

        def answer() -> None:
            while held.holds_container:
                listening.answer(held, link_alive=False)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield held
        finally:
            if held.holds_container:
                control.ask(control.control_path(ID), ABORT)
            thread.join()


class Hosted:
    """The processes of this host that may hold the container, and the journal that they own."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def process(self, run: Callable[[], object] = signal.pause) -> Apart:
        process = Apart(run)
        self._stack.callback(process.close)
        return process

    def agent(self, run: Callable[[], object]) -> Apart:
        """Start an agent that runs a function, and return it when it listens."""
        agent = self.process(run)
        soon(listens)
        return agent

    def keeper(self, agent: Apart) -> Apart:
        """Start a process that holds the container when the agent has ended, and not before."""

        def run() -> None:
            ready(agent.pidfd)
            hold()

        return self.process(run)

    def journal(
        self, *states: str, agent: ProcessRecord | None = None, keeper: ProcessRecord | None = None
    ) -> MigrationJournal:
        """Begin the target's journal, which somebody owns until the end of the test."""
        journal = MigrationJournal(
            begun(TARGET, boot_id=proc.boot_id(), process=agent, stand_by=keeper)
        )
        self._stack.callback(journal.close)
        for state in states:
            journal.entered(state)
        return journal

"""A word for a container that another agent of this host holds, or its successor.

An agent that was sent for nothing else passes the word on (protocol.Recover). So the source needs
nothing on the target but what a migration needs.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import time
from collections.abc import Callable

from checkpoint.host import processes
from migrate.agent import control
from migrate.agent.control import Outcome, Reply
from migrate.journal import book, cut_off
from migrate.journal.book import Listed
from migrate.journal.records import SOURCE, TARGET, ProcessRecord
from migrate.leftovers import sweep
from migrate.network import late_frames
from migrate.wire import protocol

#: How long an agent may take to say that it holds a container.
HUNG_S = 1.0
#: How long it may take until a successor can be asked, or until an agent has gone on.
CHANGE_S = 5.0
LOOK_AGAIN_S = 0.02


def recover(request: protocol.Recover, tell: Callable[[str], None]) -> protocol.Recovered:
    """Say a word to what holds the container of a migration on this host, and return what came.

    An agent that is stopped goes on first, and one that does not answer is killed if its keeper
    lives, which then holds the container in its place. If nobody holds the container, what a killed
    agent has left is removed; `tell` gets lines for people about that. On the migration's source
    nothing is done: the answer says how the container is there. Raises OSError.
    """
    if (left := book.find(request.migration_id, SOURCE)) is not None:
        return protocol.Recovered(
            state=left.account.state,
            life=cut_off.life_on_source(left.account.begun).value,
            goes_on=left.owned,
            outcome=Outcome.NOBODY.value,
            text=f"{platform.node()} is the source of that move",
        )
    reply = _passed_on(request)
    if reply.outcome in (Outcome.NOBODY, Outcome.LOST):
        sweep(tell)
    found = book.find(request.migration_id, TARGET)
    return protocol.Recovered(
        state=None if found is None else found.account.state,
        life=None,
        goes_on=found is not None and found.owned,
        outcome=reply.outcome.value,
        text=reply.text,
    )


def _passed_on(request: protocol.Recover) -> Reply:
    path, until = control.control_path(request.migration_id), time.monotonic() + CHANGE_S
    while True:
        found = book.find(request.migration_id, TARGET)
        if (known := _known(found, request.word)) is not None:
            return known
        assert found is not None
        _wake(found.account.begun.process)
        try:
            control.ask(path, control.STATUS, HUNG_S)
            frames = late_frames.split(request.frames, request.payload)
            return control.ask(path, request.word, frames=frames)
        except TimeoutError:
            if _hand_on(found):
                until = time.monotonic() + CHANGE_S
            elif time.monotonic() > until:
                return Reply(outcome=Outcome.FAILED, text="what holds the container hangs")
        except OSError:  # nobody listens, or it was killed
            if time.monotonic() > until:
                # An agent that holds no container should have ended by now, if it should end.
                if request.word != control.ABORT_PROVED:
                    return _busy()
                if not _hand_on(found):
                    return _nobody()
                until = time.monotonic() + CHANGE_S
        time.sleep(LOOK_AGAIN_S)


def _known(found: Listed | None, word: str) -> Reply | None:
    """Return the reply that the journal gives, or None if somebody must be asked."""
    host = platform.node()
    if found is None:
        return _nobody()
    if found.account.state in cut_off.RUNS_THERE:
        aborts = word in (control.ABORT, control.ABORT_PROVED)
        outcome = Outcome.REFUSED if aborts else Outcome.OK
        return Reply(outcome=outcome, text=f"the container was made to run on {host}")
    if not found.owned or found.account.ended is not None:
        # Only after its death on the source is a container lost that this host has let go.
        return _lost(found) if word == control.GO else _nobody()
    return None


def _nobody() -> Reply:
    return Reply(
        outcome=Outcome.NOBODY, text=f"nobody on {platform.node()} holds a container for that move"
    )


def _busy() -> Reply:
    """Return the reply of a host on which a process of the migration lives that does not answer."""
    return Reply(
        outcome=Outcome.FAILED,
        text=f"a process of the move lives on {platform.node()} and holds nothing yet, or does not"
        " answer: try again in half a minute, and start the container nowhere",
    )


def _lost(found: Listed) -> Reply:
    """Return the reply of a host whose own journal says that it never ran the container."""
    dropped = found.account.ended is not None
    why = "was started again" if cut_off.rebooted(found.account) else "has lost what held it"
    return Reply(
        outcome=Outcome.LOST,
        text=f"{platform.node()} never ran the container, and"
        f" {'dropped its copy' if dropped else why}",
    )


def _wake(process: ProcessRecord | None) -> None:
    """Have an agent go on that somebody has stopped."""
    if process is not None and (pidfd := _open(process)) is not None:
        try:
            if processes.state_of(process.pid) in processes.STOPPED:
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        finally:
            os.close(pidfd)


def _hand_on(found: Listed) -> bool:
    """Kill an agent that does not answer, and return whether its keeper goes on in its place."""
    begun = found.account.begun
    if not book.is_alive(begun.stand_by) or (agent := _open(begun.process)) is None:
        return False  # without an agent the keeper holds the container by now
    try:
        signal.pidfd_send_signal(agent, signal.SIGKILL)
    finally:
        os.close(agent)
    return True


def _open(process: ProcessRecord | None) -> int | None:
    """Return a pidfd of a process; None if that has ended."""
    if process is not None:
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(process.pid)
            if book.is_alive(process):  # the pid was not given again before it was opened
                return pidfd
            os.close(pidfd)
    return None

"""Tests of migrate/agent/recover.py: a word reaches whatever holds a container of this host."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Never

import pytest

from checkpoint.host import proc, processes
from checkpoint.host.ready import ready
from migrate.agent import control, recover
from migrate.agent.control import ABORT, ABORT_PROVED, GO, STATUS, Outcome
from migrate.journal.book import MigrationJournal, process_record
from migrate.journal.records import TARGET, ProcessRecord
from migrate.wire import protocol
from migrate.wire.values import LateFrame
from tests.unit.helpers.apart import TIMEOUT_S
from tests.unit.helpers.begun import ID, begun
from tests.unit.migrate.agent.hosted import Hosted, hang, held_here, hold


@pytest.fixture(autouse=True)
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the control sockets of a host of this test, on which nobody waits long."""
    monkeypatch.setattr(control, "RUN", tmp_path)
    monkeypatch.setattr(recover, "LOOK_AGAIN_S", 0.001)
    monkeypatch.setattr(recover, "CHANGE_S", 0.1)


@pytest.fixture(autouse=True)
def swept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that has an entry for each sweep of this host."""
    swept: list[str] = []

    def sweep(tell: Callable[[str], None]) -> None:
        swept.append("swept")
        tell("told")

    monkeypatch.setattr(recover, "sweep", sweep)
    return swept


def say(word: str) -> tuple[Outcome, str, str | None]:
    """Say a word, and return (what came of it, its text, the last state of the journal)."""
    told: list[str] = []
    answer = recover.recover(protocol.Recover(migration_id=ID, word=word, frames=()), told.append)
    outcome = Outcome(answer.outcome)
    assert told == (["told"] if outcome in (Outcome.NOBODY, Outcome.LOST) else [])
    return outcome, answer.text, answer.state


def outcome(word: str) -> Outcome:
    return say(word)[0]


@pytest.fixture
def hosted() -> Iterator[Hosted]:
    with contextlib.ExitStack() as stack:
        yield Hosted(stack)


def left(*states: str, ended: str | None = None) -> None:
    """Leave a journal of the target that nobody owns."""
    with MigrationJournal(begun(TARGET, boot_id=proc.boot_id())) as journal:
        for state in states:
            journal.entered(state)
        if ended is not None:
            journal.end(ended)


@pytest.fixture
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> Never:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(control, "ask", never)


@pytest.mark.usefixtures("nobody_is_asked")
@pytest.mark.parametrize("ended", [None, "finished"])
@pytest.mark.parametrize(
    ("word", "expected"),
    [(GO, Outcome.OK), (STATUS, Outcome.OK), (ABORT, Outcome.REFUSED)],
)
def test_a_container_that_runs_here_is_not_dropped(
    swept: list[str], word: str, expected: Outcome, ended: str | None
) -> None:
    """Whoever asks whether it runs need not ask a process, which may be at something else."""
    left("held", "resumed", ended=ended)
    found, text, state = say(word)
    assert (found, state) == (expected, ended or "resumed")
    assert text.startswith("the container was made to run on ")
    assert swept == []


@pytest.mark.usefixtures("nobody_is_asked")
@pytest.mark.parametrize("word", [GO, ABORT, ABORT_PROVED, STATUS])
@pytest.mark.parametrize("leave", [None, "held", "frozen", "aborted"])
def test_where_nobody_holds_it_what_is_left_is_removed(
    swept: list[str], word: str, leave: str | None
) -> None:
    if leave == "aborted":
        left("held", ended="aborted")
    elif leave is not None:
        left(leave)
    found, text, state = say(word)
    lost = word == GO and leave is not None
    assert (found, state) == (Outcome.LOST if lost else Outcome.NOBODY, leave)
    assert text.startswith(f"{platform.node()} never ran the container" if lost else "nobody on ")
    assert swept == ["swept"]


@pytest.mark.usefixtures("nobody_is_asked")
@pytest.mark.parametrize(
    ("ended", "boot_id", "why"),
    [
        (None, None, "has lost what held it"),
        (None, "0" * 36, "was started again"),
        ("aborted", None, "dropped its copy"),
    ],
)
def test_what_became_of_a_copy_that_is_lost_is_told(
    swept: list[str], ended: str | None, boot_id: str | None, why: str
) -> None:
    with MigrationJournal(begun(TARGET, boot_id=boot_id or proc.boot_id())) as journal:
        journal.entered("held")
        if ended is not None:
            journal.end(ended)
    text = f"{platform.node()} never ran the container, and {why}"
    assert say(GO)[:2] == (Outcome.LOST, text)


@pytest.mark.parametrize(
    ("word", "did"), [(GO, GO), (ABORT, ABORT), (ABORT_PROVED, ABORT), (STATUS, "")]
)
def test_a_word_is_passed_on_to_what_holds_the_container(
    hosted: Hosted, swept: list[str], word: str, did: str
) -> None:
    hosted.journal("held", agent=process_record(os.getpid()))
    with held_here() as held:
        found, _, state = say(word)
        assert (found, held.did, state) == (Outcome.OK, did, "held")
    assert swept == []


def test_frames_are_passed_on_with_go(hosted: Hosted) -> None:
    """They are larger than one datagram."""
    hosted.journal("held", agent=process_record(os.getpid()))
    sent = [(0, b"first"), (3, b""), (1, bytes(range(256)) * 4096)]
    request = protocol.Recover(
        migration_id=ID,
        word=GO,
        frames=tuple(LateFrame(index, len(frame)) for index, frame in sent),
        payload=b"".join(frame for _, frame in sent),
    )
    with held_here() as held:
        assert recover.recover(request, lambda _: None).outcome == Outcome.OK.value
        assert held.frames == sent


def test_what_a_holder_refuses_is_refused(hosted: Hosted) -> None:
    hosted.journal("held", agent=process_record(os.getpid()))
    with held_here() as held:
        assert outcome("gone") is Outcome.REFUSED
        assert held.holds_container


def test_an_agent_that_will_listen_soon_is_waited_for(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be at the restore, or its keeper on the way into its place."""
    monkeypatch.setattr(recover, "CHANGE_S", TIMEOUT_S)

    def later() -> None:
        os.read(begins, 1)
        hold()

    begins, begin = os.pipe()
    agent = hosted.process(later)
    hosted.journal("frozen", agent=agent.record)
    threading.Timer(0.05, lambda: os.write(begin, b".")).start()
    assert outcome(GO) is Outcome.OK
    assert agent.exit_code() == 0
    os.close(begins)
    os.close(begin)


def test_an_agent_that_goes_on_meanwhile_need_not_be_asked(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "CHANGE_S", TIMEOUT_S)
    journal = hosted.journal("held", agent=process_record(os.getpid()))
    threading.Timer(0.05, lambda: journal.entered("resumed")).start()
    assert say(GO)[::2] == (Outcome.OK, "resumed")


def test_an_agent_that_was_stopped_goes_on(hosted: Hosted) -> None:
    agent = hosted.agent(hold)
    hosted.journal("held", agent=agent.record)
    agent.stop()
    assert outcome(GO) is Outcome.OK
    assert agent.exit_code() == 0


def test_another_process_of_the_agents_number_is_left_alone(hosted: Hosted) -> None:
    other = hosted.process()
    other.stop()
    pid, ticks = other.record
    hosted.journal("held", agent=ProcessRecord(pid, ticks + 1), keeper=other.record)
    assert outcome(ABORT_PROVED) is Outcome.NOBODY
    assert processes.state_of(pid) in processes.STOPPED


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "HUNG_S", 0.05)


@pytest.mark.usefixtures("hung")
@pytest.mark.parametrize("word", [GO, ABORT_PROVED])
def test_a_keeper_takes_the_place_of_an_agent_that_hangs(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setattr(recover, "CHANGE_S", TIMEOUT_S)
    agent = hosted.agent(hang)
    keeper = hosted.keeper(agent)
    hosted.journal("held", agent=agent.record, keeper=keeper.record)
    assert outcome(word) is Outcome.OK
    assert agent.exit_code() == -signal.SIGKILL
    assert keeper.exit_code() == 0


@pytest.mark.usefixtures("hung")
@pytest.mark.parametrize("keeper", ["none", "dead", "another process"])
def test_an_agent_that_hangs_and_has_no_keeper_is_not_killed(
    hosted: Hosted, swept: list[str], monkeypatch: pytest.MonkeyPatch, keeper: str
) -> None:
    """It holds the only copy of what the container has in memory."""
    monkeypatch.setattr(recover, "CHANGE_S", 0.01)
    agent = hosted.agent(hang)
    other = hosted.process()
    pid, ticks = other.record
    if keeper == "dead":
        other.kill()
    record = None if keeper == "none" else ProcessRecord(pid, ticks + (keeper != "dead"))
    hosted.journal("held", agent=agent.record, keeper=record)
    assert say(GO) == (Outcome.FAILED, "what holds the container hangs", "held")
    assert agent.lives()
    assert swept == []


def test_an_agent_that_does_not_listen_makes_way_before_its_copy_is_dropped(
    hosted: Hosted,
) -> None:
    """The source runs the container: nothing can be lost."""
    agent = hosted.process()
    keeper = hosted.keeper(agent)
    hosted.journal("frozen", agent=agent.record, keeper=keeper.record)
    assert outcome(GO) is Outcome.FAILED
    assert agent.lives()
    assert outcome(ABORT_PROVED) is Outcome.OK
    assert agent.exit_code() == -signal.SIGKILL
    assert keeper.exit_code() == 0


def test_the_rest_of_an_agent_that_was_killed_is_swept(hosted: Hosted, swept: list[str]) -> None:
    """Its keeper has been killed, too: the journal has no owner any more, and the socket stays."""
    left("held")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(control.control_path(ID)))
    assert outcome(ABORT_PROVED) is Outcome.NOBODY
    assert swept == ["swept"]


@pytest.mark.usefixtures("nobody_is_asked")
@pytest.mark.parametrize("word", [GO, ABORT, ABORT_PROVED, STATUS])
@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("life", ["lives", "dead"])
def test_on_the_source_the_container_is_only_looked_at(
    hosted: Hosted, swept: list[str], word: str, goes_on: bool, life: str
) -> None:
    init = hosted.process()
    with contextlib.ExitStack() as stack:
        begins = begun(boot_id=proc.boot_id(), init=init.record)
        journal = stack.enter_context(MigrationJournal(begins))
        journal.entered("killing")
        if not goes_on:
            stack.close()
        if life == "dead":
            init.kill()
        answer = recover.recover(
            protocol.Recover(migration_id=ID, word=word, frames=()), swept.append
        )
    assert (answer.state, answer.life, answer.goes_on) == ("killing", life, goes_on)
    assert answer.outcome == Outcome.NOBODY.value
    assert answer.text.endswith(" is the source of that move")
    assert swept == []


@pytest.mark.usefixtures("hung")
@pytest.mark.parametrize("word", [GO, ABORT_PROVED])
def test_a_holder_that_hangs_is_never_taken_for_nobody(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """However often it is asked: its queue of those who wait may be full."""
    monkeypatch.setattr(recover, "CHANGE_S", 5 * recover.HUNG_S)
    hosted.journal("held", agent=hosted.agent(hang).record)
    for _ in range(control.BACKLOG + 1):
        with pytest.raises(TimeoutError):
            control.ask(control.control_path(ID), STATUS, 0.001)
    assert outcome(word) is Outcome.FAILED


@pytest.mark.usefixtures("hung")
def test_those_who_asked_before_keep_no_keeper_from_its_place(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "CHANGE_S", 5 * recover.HUNG_S)
    agent = hosted.agent(hang)
    hosted.journal("held", agent=agent.record, keeper=hosted.keeper(agent).record)
    for _ in range(control.BACKLOG + 1):
        with pytest.raises(TimeoutError):
            control.ask(control.control_path(ID), STATUS, 0.001)
    assert outcome(GO) is Outcome.OK


def test_a_keeper_is_waited_for_once_its_agent_was_killed(hosted: Hosted) -> None:
    agent = hosted.process()

    def keep() -> None:
        ready(agent.pidfd)
        time.sleep(0.05)
        hold()

    keeper = hosted.process(keep)
    hosted.journal("frozen", agent=agent.record, keeper=keeper.record)
    reaper = threading.Thread(target=agent.exit_code)  # as init does
    reaper.start()
    found = outcome(ABORT_PROVED)
    reaper.join()
    assert found is Outcome.OK


@pytest.mark.parametrize("word", [ABORT, ABORT_PROVED])
def test_what_runs_is_dropped_for_nobody(word: str) -> None:
    left("held", "resumed")
    assert outcome(word) is Outcome.REFUSED

"""Tests of migrate/phases/commit.py: from the kill on everything leads to GO.

Where it does not, what is told is true, and nothing is removed too early.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.errors import CommandFailed, NetworkError, RestoreLost
from checkpoint.network import link, netns
from checkpoint.network.model import Interface, Network
from migrate.agent.control import GO, Outcome
from migrate.decisions.state import State
from migrate.errors import LostThere, ResumeFailed, Undecided
from migrate.guardian.handle import in_ns
from migrate.guardian.watch import BY, FREED, KILLING
from migrate.network.source import SourceNetwork
from migrate.wire import protocol
from migrate.wire.failures import AgentFailed, AgentGone
from migrate.wire.message import Answer, ProtocolError
from tests.unit.migrate.answering import AnotherWay
from tests.unit.migrate.phases.held_move import (
    FINISHED,
    RESUMED,
    Frames,
    ended,
    failing,
    held_migration,
)
from transport.errors import FrameInvalid
from transport.framing import MAX_PAYLOAD


def test_a_migration_that_goes_well_does_each_step_in_order() -> None:
    move, done = held_migration(RESUMED, FINISHED)
    assert ended(move) is None
    order = "killing kill dead killed Go resumed Finish bury tidy settle done"
    assert done == ["pause_monitor", "kill in journal", *order.split()]
    assert move.guardian.told == [KILLING, BY, FREED]
    assert move.report.times.downtime_us == 8000
    assert move.report.sent.fill is not None


@pytest.mark.parametrize(
    "parts",
    [
        {"source__init__wait_dead": lambda _: False},
        {"source__init__kill": failing(PermissionError(errno.EPERM, "Operation not permitted"))},
    ],
    ids=["it does not die", "it cannot be killed"],
)
def test_without_the_death_no_go_and_nothing_removed(parts: dict[str, Any]) -> None:
    move, done = held_migration(**parts)
    error = ended(move)
    assert isinstance(error, Undecided)
    assert error.where == "the container is held on beta, restored but not running"
    assert "process 7 on the source" in error.what
    assert "'migratectl recover 0123456789ab' on this host" in error.advice
    assert " once that process is dead; " in error.advice
    assert not {"Go", "settle"} & set(done)
    assert move.state is State.KILLING


def test_a_kill_that_cannot_be_entered_into_the_journal_is_not_done() -> None:
    """Whoever goes on after this process must know of the kill."""
    move, done = held_migration(
        journal__must_enter=failing(OSError(errno.ENOSPC, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        ended(move)
    assert done == ["pause_monitor"]
    assert move.state is State.HELD, "which is rolled back"


def broken(error: Exception) -> Any:
    """Return frames that cannot be taken."""
    return SimpleNamespace(take=failing(error), descriptors=())


@pytest.mark.parametrize(
    "parts",
    [
        {"frames": broken(OSError(errno.ENODEV, "No such device"))},
        {"frames": broken(KeyError("a defect"))},
        {
            "observer": SimpleNamespace(
                state=failing(ValueError("closed")), note=failing(ValueError("x"))
            )
        },
        {"tidy__callback": failing(RuntimeError("can't start new thread"))},
    ],
    ids=["no frames", "frames defect", "observer", "links thread"],
)
def test_what_could_be_left_out_keeps_no_container_from_its_go(parts: dict[str, Any]) -> None:
    parts = dict(parts)
    frames = parts.pop("frames", None)
    move, done = held_migration(RESUMED, FINISHED, **parts)
    assert ended(move, frames) is None
    assert "Go" in done
    assert move.state is State.DONE


def test_a_dump_without_stamps_costs_the_report_its_downtime_and_nothing_else() -> None:
    move, _ = held_migration(RESUMED, FINISHED, dump__stamps=[])
    assert ended(move) is None
    assert any("could not be entered into the report" in note for note in move.report.notes)
    assert move.report.times.downtime_us is None
    assert move.state is State.DONE


def network_of_one_interface(monkeypatch: pytest.MonkeyPatch) -> SourceNetwork:
    """Return the network of a container with one interface, for a migration of the test."""
    interface = Interface(
        name="eth0", mac="02:00:00:00:00:01", mtu=1500, addresses=(), host_name="veth1", bridge=None
    )
    network = Network(path="/run/netns/web", interfaces=(interface,), routes=())
    monkeypatch.setattr(netns, "read", lambda _: network)
    container: Any = SimpleNamespace(network_namespace=network.path, engine_network=True)
    return SourceNetwork(container)


def test_links_that_cannot_be_taken_down_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """That includes errors that are not the network's, since the error comes from a thread."""
    for error, noted in (
        (OSError(errno.EMFILE, "Too many open files"), True),
        (NetworkError("gone"), False),
    ):
        monkeypatch.setattr(link, "set_link", failing(error))
        move, _ = held_migration(RESUMED, FINISHED)
        network = network_of_one_interface(monkeypatch)
        move.source.network.take_links_down = network.take_links_down
        assert ended(move) is None
        assert any("Too many open files" in note for note in move.report.notes) is noted


def test_more_frames_than_a_message_carries_are_cut_not_refused() -> None:
    frames = Frames([b"x" * (MAX_PAYLOAD - 10)], [b"y" * 20, b"z" * 10])
    move, _ = held_migration(RESUMED, FINISHED)
    assert ended(move, frames) is None
    assert [len(part) for part in move.target.agent.go_parts] == [MAX_PAYLOAD - 10, 10]


def test_a_go_with_frames_that_cannot_be_sent_is_sent_without() -> None:
    move, done = held_migration(RESUMED, FINISHED)
    move.target.agent.fails_to_ask = [FrameInvalid("over the bound")]
    assert ended(move, Frames([b"x"])) is None
    assert done.count("Go") == 1
    assert move.target.agent.go_parts == []


def test_a_link_lost_before_go_was_sent_leaves_the_container_held() -> None:
    move, done = held_migration()
    move.target.agent.fails_to_ask = [AgentGone("it broke", "", None)]
    error = ended(move)
    assert isinstance(error, Undecided)
    assert error.where == "the container is held on beta, restored but not running"
    assert error.cause_kind == "AgentGone"
    assert "settle" not in done
    assert move.report.outcome == "refused"  # the coordinator would enter the state
    assert move.state is State.KILLED


def came(outcome: Outcome, text: str) -> protocol.Recovered:
    """Return the answer to a word for what holds the container on the target."""
    return protocol.Recovered(
        state="held", life=None, goes_on=True, outcome=outcome.value, text=text
    )


RUNS = came(Outcome.OK, "the container runs on beta")


@pytest.fixture
def another_way() -> Iterator[Callable[[Any, Answer | None], AnotherWay]]:
    """Return a function that gives a migration another way to its target, with this answer."""
    with contextlib.ExitStack() as stack:

        def lead(move: Any, answer: Answer | None) -> AnotherWay:
            found = stack.enter_context(contextlib.closing(AnotherWay(answer)))
            move.target.reconnect = lambda: contextlib.nullcontext(found)
            return found

        yield lead


Lead = Callable[[Any, Answer | None], AnotherWay]


def test_a_go_whose_link_is_lost_is_said_over_another_connection(another_way: Lead) -> None:
    move, done = held_migration()
    move.target.agent.fails_to_ask = [AgentGone("it broke", "", None)]
    another = another_way(move, RUNS)
    assert ended(move) is None
    assert another.asked() == protocol.Recover(migration_id="0123456789ab", word=GO, frames=())
    order = "killing kill dead killed note resumed bury tidy settle done"
    assert done[2:] == order.split(), "nobody is asked to finish"
    assert move.report.notes == [
        "the link was lost after the source had been stopped (it broke);"
        " the container runs on beta, and brings the rest of memory by itself"
    ]


def test_a_go_that_is_not_answered_in_time_is_said_over_another_connection(
    another_way: Lead,
) -> None:
    """The freeze has a bound, and GO may be said twice."""
    move, done = held_migration(AgentGone("timed out", "", None))
    another = another_way(move, RUNS)
    assert ended(move) is None
    assert another.asked() == protocol.Recover(migration_id="0123456789ab", word=GO, frames=())
    assert done.count("Go") == 1
    assert move.report.notes == [
        "the target did not answer GO after the source had been stopped (timed out);"
        " the container runs on beta, and brings the rest of memory by itself"
    ]


@pytest.mark.parametrize(("left_s", "expected_s"), [(None, 2.0), (1.0, 2.0), (8.0, 7.5)])
def test_of_the_time_of_the_freeze_some_is_left_for_another_way_to_say_go(
    left_s: float | None, expected_s: float
) -> None:
    move, _ = held_migration(RESUMED, FINISHED)
    if left_s is not None:
        move.guardian.expect(in_ns(left_s))
    assert ended(move) is None
    assert expected_s - 0.4 < move.target.agent.patience_s[0] <= expected_s


@pytest.mark.parametrize(
    ("answer", "notes"),
    [
        (None, []),
        (
            came(Outcome.FAILED, "CRIU did not resume it"),
            ["beta was told GO once more: CRIU did not resume it"],
        ),
        (
            came(Outcome.NOBODY, "nobody on beta holds a container for that move"),
            ["beta was told GO once more: nobody on beta holds a container for that move"],
        ),
    ],
)
def test_without_a_word_that_it_runs_nothing_is_removed(
    another_way: Lead, answer: Answer | None, notes: list[str]
) -> None:
    move, done = held_migration()
    move.target.agent.fails_to_ask = [AgentGone("it broke", "", None)]
    another_way(move, answer)
    assert isinstance(ended(move), Undecided)
    assert "settle" not in done
    assert FREED not in move.guardian.told, "the guardian goes on"
    assert move.report.notes[: len(notes)] == notes


def test_what_the_target_has_lost_is_told_as_lost_and_left_to_the_guardian(
    another_way: Lead,
) -> None:
    """The guardian gives back what was changed on the source."""
    move, done = held_migration()
    move.target.agent.fails_to_ask = [AgentGone("it broke", "", None)]
    another_way(move, came(Outcome.LOST, "beta never ran the container, and was started again"))
    error = ended(move)
    assert type(error) is LostThere
    assert "beta never ran the container, and was started again" in str(error)
    assert "settle" not in done
    assert FREED not in move.guardian.told


#: Answers to GO that cannot be read, although the agent is there.
UNREAD = [ProtocolError("Done: 'stamps'"), KeyError("x")]


@pytest.mark.parametrize("unread", UNREAD)
def test_an_answer_that_cannot_be_read_is_asked_for_again(unread: Exception) -> None:
    """Requests are answered in order, so a target that answers the next one has obeyed GO."""
    move, done = held_migration(unread, protocol.Clock(monotonic_ns=1, batches=0), FINISHED)
    assert ended(move) is None
    assert move.state is State.DONE
    assert move.report.times.downtime_us is None
    assert any("could not be read" in note for note in move.report.notes)
    assert done.index("Go") < done.index("Ping") < done.index("settle")


@pytest.mark.parametrize("unread", UNREAD)
@pytest.mark.parametrize(
    "again", [AgentGone("timed out", "", None), ProtocolError("Clock"), KeyError("x")]
)
def test_a_second_answer_that_cannot_be_read_leaves_the_end_undecided(
    unread: Exception, again: Exception
) -> None:
    move, done = held_migration(unread, again)
    error = ended(move)
    assert isinstance(error, Undecided)
    assert "or runs there by now" in error.where
    assert error.cause_kind == type(unread).__name__
    assert [what for what in done if what != "note"][-4:] == [
        "bury",
        "Logs",
        "tidy",
        "record_ended",
    ]
    assert "settle" not in done


@pytest.mark.parametrize(
    "answers",
    [[AgentFailed("CriuFailed", "no luck", [])], [KeyError("x"), AgentFailed("K", "no luck", [])]],
)
def test_a_target_that_could_not_resume_the_container_is_told(answers: list[Exception]) -> None:
    move, done = held_migration(*answers)
    error = ended(move)
    assert isinstance(error, ResumeFailed)
    assert "no luck" in error.what
    assert "the source keeps the container, stopped" in error.where
    assert "settle" not in done
    assert move.state is State.KILLED


def lost(text: str = "the engine's restore ended") -> AgentFailed:
    return AgentFailed(RestoreLost.__name__, text, [])


def test_what_the_target_has_lost_before_it_ran_is_restored_once_more() -> None:
    move, done = held_migration(lost(), RESUMED, FINISHED)
    assert ended(move, restore_again=lambda: done.append("again")) is None
    assert done.count("Go") == 2
    assert done.index("Go") < done.index("again") < len(done) - done[::-1].index("Go") - 1
    assert move.state is State.DONE
    assert any("it is restored there once more" in note for note in move.report.notes)


@pytest.mark.parametrize(
    ("answers", "again"),
    [
        ([lost(), lost("lost again")], None),
        ([lost()], AgentFailed("CriuFailed", "lost again", [])),
        ([lost()], AgentGone("lost again", "", None)),
    ],
)
@pytest.mark.parametrize(
    ("outcome", "kind"),
    [(Outcome.NOBODY, ResumeFailed), (Outcome.FAILED, Undecided), (Outcome.OK, None)],
)
def test_a_restore_that_is_lost_twice_is_left_to_the_target(
    another_way: Lead,
    answers: list[Exception],
    again: Exception | None,
    outcome: Outcome,
    kind: type[Exception] | None,
) -> None:
    """The target may restore it by itself; it holds nothing any more if it cannot."""
    move, done = held_migration(*answers)
    another_way(move, came(outcome, "what it says"))
    error = ended(move, restore_again=failing(again) if again is not None else lambda: None)
    assert (type(error) if error is not None else None) is kind
    assert ("settle" in done) is (kind is None)
    if error is not None:
        assert "lost again" in error.what
        assert move.state is State.KILLED


def test_a_defect_between_kill_and_go_is_undecided_and_not_a_traceback() -> None:
    move, done = held_migration(source__init__wait_dead=failing(MemoryError()))
    error = ended(move)
    assert isinstance(error, Undecided)
    assert error.cause_kind == "MemoryError"
    assert [what for what in done if what != "note"][-4:] == [
        "bury",
        "Logs",
        "tidy",
        "record_ended",
    ]


def test_failures_of_the_end_itself_are_notes_beside_the_first_error() -> None:
    parts = {"source__init__wait_dead": lambda _: False, "dump__bury": failing(KeyError("x"))}
    move, _ = held_migration(AgentGone("it broke", "", None), **parts)
    move.tidy.callback(failing(CommandFailed(["umount"], 32, "busy")))
    error = ended(move)
    assert isinstance(error, Undecided)
    assert "is not dead yet" in error.what
    notes = "\n".join(move.report.notes)
    for words in (
        "CRIU on the source was not ended: 'x'",
        "logs could not be had: it broke",
        "umount ended with status",
    ):
        assert words in notes

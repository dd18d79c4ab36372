"""migrate/phases/commit.py: from the kill on everything leads to GO, to the truth, and to nothing removed too early."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from checkpoint.errors import CommandFailed, EngineRefused, NetworkError
from checkpoint.network import link, netns
from checkpoint.network.model import Interface, Network
from migrate import errors
from migrate.decisions.state import State
from migrate.errors import AgentFailed, AgentGone, LeftBehind, ResumeFailed, Undecided
from migrate.migration import Migration
from migrate.network.source import SourceNetwork, fitting
from migrate.observer import Unfailing
from migrate.options import Options
from migrate.phases import cleanup, commit
from migrate.progress import Progress
from migrate.report import Report
from migrate.wire import protocol
from migrate.wire.message import ProtocolError
from migrate.wire.values import Stamp, Waits
from transport.destination import Destination
from transport.errors import FrameInvalid
from transport.framing import MAX_PAYLOAD

RESUMED = protocol.Resumed(go_ns=5_000_000, resumed_ns=9_000_000, stamps=())
WAITS = Waits(1, 2, 3, 4)
FINISHED = protocol.Finished(
    stamps=(Stamp("memory in place", 10_000_000),), filled_bytes=7, waits=WAITS
)


class Agent:
    """The target. `answers` are given in turn; an exception is raised instead. `done` is what was seen, in order."""

    def __init__(self, done: list[str], *answers: Any) -> None:
        self.done, self.answers = done, list(answers)
        self.go_parts: list[bytes] = []
        self.fails_to_ask: list[Exception] = []

    def ask(self, message: Any, parts: Any = ()) -> None:
        if self.fails_to_ask:
            raise self.fails_to_ask.pop(0)
        self.done.append(type(message).__name__)
        self.go_parts = list(parts)

    def answer(self, message: Any, *, timeout_s: float | None = None) -> Any:
        assert timeout_s is not None, "nobody waits for ever after the kill"
        return self._next()

    def request(self, message: Any, parts: Any = (), *, timeout_s: float | None = None) -> Any:
        self.done.append(type(message).__name__)
        return self._next()

    def _next(self) -> Any:
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def does_nothing() -> None: ...


def a_move(*answers: Any, **parts: Any) -> tuple[Any, list[str]]:
    """A move that holds a restored container, and what is done, in order. `parts` replace attributes of fakes."""
    done: list[str] = []

    def does(name: str) -> Callable[..., None]:
        return lambda *_, **__: done.append(name)

    def died(_: float) -> bool:
        done.append("dead")
        return True

    init = SimpleNamespace(pid=7, kill=does("kill"), wait_dead=died)
    dump = SimpleNamespace(
        bury=does("bury"), stamps=[SimpleNamespace(name="request DUMP", at_ns=1_000_000)]
    )
    engine = SimpleNamespace(
        remove_migrated=does("remove_migrated"), record_ended=does("record_ended")
    )
    observer = SimpleNamespace(
        state=lambda state: done.append(state.value), note=does("note"), sent=does("sent")
    )
    progress = Progress(Report.begin("web", "beta"), Unfailing(observer))
    progress.state = State.HELD
    make: Callable[..., Migration] = Migration
    move = make(
        migration_id="0123456789ab",
        options=Options(),
        source=SimpleNamespace(
            engine=engine,
            container=SimpleNamespace(engine_network=False),
            init=init,
            network=SimpleNamespace(take_links_down=does_nothing, remove=does_nothing),
        ),
        target=SimpleNamespace(
            hostname="beta",
            connection=SimpleNamespace(destination=Destination.parse("root@beta")),
            agent=Agent(done, *answers),
            shared_rootfs=False,
            clock=SimpleNamespace(to_ours=lambda at_ns: at_ns),
        ),
        tracking=(),
        room_bytes=0,
        limit=None,
        dump=dump,
        progress=progress,
    )
    move.tidy.callback(does("tidy"))
    for path, value in parts.items():
        *owners, name = path.split("__")
        setattr(functools.reduce(getattr, owners, move), name, value)
    return move, done


def ended(move: Any, frames: Any = None) -> errors.MigrateError | None:
    """What a move is told as, from the kill on, as coordinator._go_through has it."""
    armed: Any = SimpleNamespace(frames=frames or Frames(), output=None)
    try:
        commit.kill_source(move)
        commit.resume_target(move, armed)
    except BaseException as error:  # noqa: BLE001
        return commit.stranded(move, error)
    try:
        cleanup.clean_up(move, armed)
    except errors.MigrateError as error:
        return error
    return None


def test_a_move_that_goes_well() -> None:
    move, done = a_move(RESUMED, FINISHED)
    assert ended(move) is None
    order = "killing kill dead killed Go resumed Finish bury tidy remove_migrated done"
    assert done == order.split()
    assert move.report.times.downtime_us == 8000
    assert move.report.sent.fill is not None


# --- the kill --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        {"source__init__wait_dead": lambda _: False},
        {"source__init__kill": failing(PermissionError(errno.EPERM, "Operation not permitted"))},
    ],
    ids=["it does not die", "it cannot be killed"],
)
def test_without_the_death_no_go_and_nothing_removed(parts: dict[str, Any]) -> None:
    move, done = a_move(**parts)
    error = ended(move)
    assert isinstance(error, Undecided)
    assert error.where == "the container is held on beta, restored but not running"
    assert "process 7 on the source" in error.what
    assert "recover 0123456789ab --on root@beta" in error.advice
    assert "--source-is-dead" in error.advice
    assert not {"Go", "remove_migrated"} & set(done)
    assert move.state is State.KILLING


class Frames:
    """The frames kept for the interfaces of a container, a list for each."""

    def __init__(self, *frames: list[bytes]) -> None:
        self._frames = list(frames)

    def take(self) -> list[tuple[int, bytes]]:
        return fitting(self._frames)


def broken(error: Exception) -> Any:
    return SimpleNamespace(take=failing(error))


@pytest.mark.parametrize(
    "parts",
    [
        {"frames": broken(OSError(errno.ENODEV, "No such device"))},
        {"frames": broken(KeyError("a defect"))},
        {
            "progress___observer": Unfailing(
                cast(
                    Any,
                    SimpleNamespace(
                        state=failing(ValueError("closed")), note=failing(ValueError("x"))
                    ),
                )
            ),
        },
        {"tidy__callback": failing(RuntimeError("can't start new thread"))},
    ],
    ids=["no frames", "frames defect", "observer", "links thread"],
)
def test_what_could_be_left_out_keeps_no_container_from_its_go(parts: dict[str, Any]) -> None:
    parts = dict(parts)
    frames = parts.pop("frames", None)
    move, done = a_move(RESUMED, FINISHED, **parts)
    assert ended(move, frames) is None
    assert "Go" in done
    assert move.state is State.DONE


def test_a_dump_without_stamps_costs_the_report_its_downtime_and_nothing_else() -> None:
    move, _ = a_move(RESUMED, FINISHED, dump__stamps=[])
    assert ended(move) is None
    assert any("could not be entered into the report" in note for note in move.report.notes)
    assert move.report.times.downtime_us is None
    assert move.state is State.DONE


def network_of_one_interface(monkeypatch: pytest.MonkeyPatch) -> SourceNetwork:
    interface = Interface(
        name="eth0", mac="02:00:00:00:00:01", mtu=1500, addresses=(), host_name="veth1", bridge=None
    )
    network = Network(path="/run/netns/web", interfaces=(interface,), routes=())
    monkeypatch.setattr(netns, "read", lambda _: network)
    container: Any = SimpleNamespace(network_namespace=network.path, engine_network=True)
    return SourceNetwork(container)


def test_links_that_cannot_be_taken_down_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by an error that is not the network's: it came from a thread."""
    for error, noted in (
        (OSError(errno.EMFILE, "Too many open files"), True),
        (NetworkError("gone"), False),
    ):
        monkeypatch.setattr(link, "set_link", failing(error))
        move, _ = a_move(RESUMED, FINISHED)
        move.source.network = network_of_one_interface(monkeypatch)
        assert ended(move) is None
        assert any("Too many open files" in note for note in move.report.notes) is noted


def test_more_frames_than_a_message_carries_are_cut_not_refused() -> None:
    frames = Frames([b"x" * (MAX_PAYLOAD - 10)], [b"y" * 20, b"z" * 10])
    move, _ = a_move(RESUMED, FINISHED)
    assert ended(move, frames) is None
    assert [len(part) for part in move.target.agent.go_parts] == [MAX_PAYLOAD - 10, 10]


def test_a_go_with_frames_that_cannot_be_sent_is_sent_without() -> None:
    move, done = a_move(RESUMED, FINISHED)
    move.target.agent.fails_to_ask = [FrameInvalid("over the bound")]
    assert ended(move, Frames([b"x"])) is None
    assert done.count("Go") == 1
    assert move.target.agent.go_parts == []


# --- GO and its answer -----------------------------------------------------------------------------------------


def test_a_link_that_was_lost_before_go_was_sent() -> None:
    move, done = a_move()
    move.target.agent.fails_to_ask = [AgentGone("it broke", "", None)]
    error = ended(move)
    assert isinstance(error, Undecided)
    assert error.where == "the container is held on beta, restored but not running"
    assert error.cause_kind == "AgentGone"
    assert "remove_migrated" not in done
    assert move.report.outcome == "refused"  # the coordinator enters the state
    assert move.state is State.KILLED


@pytest.mark.parametrize(
    "unread", [AgentGone("timed out", "", None), ProtocolError("Done: 'stamps'"), KeyError("x")]
)
def test_an_answer_that_cannot_be_read_is_asked_for_again(unread: Exception) -> None:
    """Requests are answered in order: who answers the next has obeyed GO."""
    move, done = a_move(unread, protocol.Clock(monotonic_ns=1), FINISHED)
    assert ended(move) is None
    assert move.state is State.DONE
    assert move.report.times.downtime_us is None
    assert any("could not be read" in note for note in move.report.notes)
    assert done.index("Go") < done.index("Ping") < done.index("remove_migrated")


@pytest.mark.parametrize(
    "unread", [AgentGone("timed out", "", None), ProtocolError("Done: 'stamps'"), KeyError("x")]
)
@pytest.mark.parametrize(
    "again", [AgentGone("timed out", "", None), ProtocolError("Clock"), KeyError("x")]
)
def test_if_it_says_nothing_of_use_then_either_nothing_is_claimed(
    unread: Exception, again: Exception
) -> None:
    move, done = a_move(unread, again)
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
    assert "remove_migrated" not in done


@pytest.mark.parametrize(
    "answers",
    [[AgentFailed("CriuFailed", "no luck", [])], [KeyError("x"), AgentFailed("K", "no luck", [])]],
)
def test_a_target_that_could_not_resume_it(answers: list[Exception]) -> None:
    move, done = a_move(*answers)
    error = ended(move)
    assert isinstance(error, ResumeFailed)
    assert "no luck" in error.what
    assert "the source keeps the container, stopped" in error.where
    assert "remove_migrated" not in done
    assert move.state is State.KILLED


def test_an_interruption_or_a_defect_in_between_is_undecided_and_not_a_traceback() -> None:
    move, done = a_move(source__init__wait_dead=failing(MemoryError()))
    error = ended(move)
    assert isinstance(error, Undecided)
    assert error.cause_kind == "MemoryError"
    assert [what for what in done if what != "note"][-4:] == [
        "bury",
        "Logs",
        "tidy",
        "record_ended",
    ]


# --- afterwards ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "parts", "words"),
    [
        ([AgentGone("it broke", "", None)], {}, "it broke"),
        ([AgentFailed("OSError", "umount: busy", [])], {}, "the target failed: umount: busy"),
        ([ProtocolError("Finished.waits: not four")], {}, "Finished.waits: not four"),
        (
            [FINISHED],
            {"target__clock__to_ours": failing(TypeError("no number"))},
            "TypeError: no number",
        ),
        ([FINISHED], {"dump__bury": failing(KeyError("x"))}, "KeyError"),
        (
            [FINISHED],
            {
                "source__engine__remove_migrated": failing(
                    EngineRefused("docker: already in progress")
                )
            },
            "already in progress",
        ),
        (
            [FINISHED],
            {"source__engine__remove_migrated": failing(CommandFailed(["podman"], 125, "no"))},
            "podman ended with status 125",
        ),
    ],
)
def test_what_fails_afterwards_is_left_behind_and_the_rest_is_done(
    answers: list[Any], parts: dict[str, Any], words: str
) -> None:
    move, done = a_move(RESUMED, *answers, **parts)
    error = ended(move)
    assert isinstance(error, LeftBehind)
    assert words in error.what
    assert error.where == "the container runs on beta"
    rest = {"bury", "tidy", "remove_migrated"} - {name.rpartition("__")[2] for name in parts}
    assert rest <= set(done)
    assert move.state is State.RESUMED


def test_a_tidy_up_that_fails_keeps_nothing_else() -> None:
    move, done = a_move(RESUMED, FINISHED)
    move.tidy.callback(failing(CommandFailed(["umount"], 32, "busy")))
    error = ended(move)
    assert isinstance(error, LeftBehind)
    assert error.cause_kind == "CommandFailed"
    assert done[-2:] == ["tidy", "remove_migrated"]


def test_stranded_twice_over_still_tells_the_first() -> None:
    parts = {"source__init__wait_dead": lambda _: False, "dump__bury": failing(KeyError("x"))}
    move, _ = a_move(AgentGone("it broke", "", None), **parts)
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

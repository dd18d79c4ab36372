"""A migration that holds a restored container, with fakes of all that the last phases touch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from migrate import errors
from migrate.decisions.state import State
from migrate.migration import Migration, Source
from migrate.network.source import fitting
from migrate.observer import Unfailing
from migrate.options import Options
from migrate.phases import cleanup, commit
from migrate.progress import Progress
from migrate.report import Report
from migrate.wire import protocol
from migrate.wire.values import Stamp, Waits
from tests.unit.helpers.unguarded import Unguarded
from transport.destination import Destination
from transport.errors import IncompleteFrame, Unreachable

RESUMED = protocol.Resumed(go_ns=5_000_000, resumed_ns=9_000_000, stamps=())
WAITS = Waits(1, 2, 3, 4)
FINISHED = protocol.Finished(
    stamps=(Stamp("memory in place", 10_000_000),), filled_bytes=7, waits=WAITS
)


class Agent:
    """A fake of the target's agent: `answers` are given in turn, and exceptions among them raised.

    `done` is the list of what happened, in order, to which the requests are added. `patience_s` are
    the limits of the answers that were waited for.
    """

    def __init__(self, done: list[str], *answers: Any) -> None:
        self.done, self.answers = done, list(answers)
        self.go_parts: list[bytes] = []
        self.patience_s: list[float] = []
        self.fails_to_ask: list[Exception] = []

    def ask(self, message: Any, parts: Any = ()) -> None:
        if self.fails_to_ask:
            raise self.fails_to_ask.pop(0)
        self.done.append(type(message).__name__)
        self.go_parts = list(parts)

    def answer(self, message: Any, *, timeout_s: float | None = None) -> Any:
        assert timeout_s is not None, "nobody waits for ever after the kill"
        self.patience_s.append(timeout_s)
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
    """Return a function that raises an error, whatever it is called with."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def does_nothing(*_: object) -> None: ...


class Frames:
    """The frames kept for the interfaces of a container, in a list for each."""

    descriptors: tuple[int, ...] = ()

    def __init__(self, *frames: list[bytes]) -> None:
        self._frames = list(frames)

    def take(self) -> list[tuple[int, bytes]]:
        return fitting(self._frames)


def held_migration(*answers: Any, observer: Any = None, **parts: Any) -> tuple[Any, list[str]]:
    """Return a migration that holds a restored container, and the list of what is done.

    `parts` replace attributes of the fakes: `source__init__kill` is that of `source.init.kill`.
    """
    done: list[str] = []

    def does(name: str) -> Callable[..., None]:
        return lambda *_, **__: done.append(name)

    def died(_: float) -> bool:
        done.append("dead")
        return True

    init = SimpleNamespace(pid=7, kill=does("kill"), wait_dead=died)
    dump = SimpleNamespace(
        bury=does("bury"),
        conversation=SimpleNamespace(criu=SimpleNamespace(fileno=lambda: 3)),
        stamps=[SimpleNamespace(name="request DUMP", at_ns=1_000_000)],
    )
    engine = SimpleNamespace(
        pause_monitor=does("pause_monitor"),
        record_ended=does("record_ended"),
        end_monitor=does_nothing,
    )
    observer = observer or SimpleNamespace(
        state=lambda state: done.append(state.value), note=does("note"), sent=does("sent")
    )
    progress = Progress(Report.begin("web", "beta"), Unfailing(observer))
    progress.state = State.HELD
    make: Callable[..., Migration] = Migration
    source: Callable[..., Source] = Source
    move = make(
        migration_id="0123456789ab",
        options=Options(),
        source=source(
            engine=engine,
            container=SimpleNamespace(engine_network=False),
            init=init,
            network=SimpleNamespace(take_links_down=does_nothing, remove=does_nothing),
            facts=None,
        ),
        target=SimpleNamespace(
            hostname="beta",
            link=SimpleNamespace(
                destination=Destination.parse("root@beta"),
                run=failing(IncompleteFrame("the connection broke")),
            ),
            reconnect=failing(Unreachable("the host is gone")),
            agent=Agent(done, *answers),
            shared_rootfs=False,
            clock=SimpleNamespace(to_ours=lambda at_ns: at_ns),
        ),
        factors={},
        tracking=(),
        room_bytes=0,
        limit=None,
        dump=dump,
        progress=progress,
        journal=SimpleNamespace(
            entered=does_nothing, must_enter=does("kill in journal"), sync=does_nothing
        ),
        guardian=Unguarded(),
        undo=SimpleNamespace(settle=does("settle")),
    )
    move.tidy.callback(does("tidy"))
    for path, value in parts.items():
        *owners, name = path.split("__")
        setattr(functools.reduce(getattr, owners, move), name, value)
    return move, done


def ended(
    move: Any, frames: Any = None, restore_again: Callable[[], None] = does_nothing
) -> errors.MigrateError | None:
    """Go on from the hold to the end as the coordinator does, and return the error of the end."""
    armed: Any = SimpleNamespace(frames=frames or Frames(), output=None)
    commit.arm_kill(move, armed)
    try:
        commit.kill_source(move)
        by_agent = commit.resume_target(move, armed, restore_again)
    except BaseException as error:  # noqa: BLE001
        return commit.stranded(move, error)
    try:
        cleanup.clean_up(move, armed, by_agent=by_agent)
    except errors.MigrateError as error:
        return error
    return None

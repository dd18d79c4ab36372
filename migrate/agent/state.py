"""The states of the target's half of a migration, and the commands that may come in each.

This module does no I/O.
"""

from __future__ import annotations

import enum

from migrate.decisions.state import InvalidTransition
from migrate.wire import protocol
from migrate.wire.protocol import Command, ProtocolError


class State(enum.Enum):
    """The state of the target's half of a migration; it says which host may run the container.

    source only    CONNECTED, GREETED, EXAMINED, AWAITING_IMAGE, PREPARED, ARMED, FROZEN, ABORTED:
                   if the connection ends, the agent undoes all that it made
    unknown        HELD: the container is restored and stopped. The agent waits for GO or ABORT,
                   from the coordinator or from an operator, and undoes nothing by itself
    target only    RESUMED, FINISHED: nothing is undone any more. If the connection ends, the agent
                   fills in the rest of memory and removes what only the migration needed. RESUMED
                   goes back to PREPARED if what was held is lost and has provably not run
    """

    CONNECTED = "connected"
    GREETED = "greeted"
    EXAMINED = "examined"
    AWAITING_IMAGE = "awaiting its image"
    PREPARED = "prepared"
    ARMED = "armed"
    FROZEN = "frozen"
    HELD = "held"
    RESUMED = "resumed"
    FINISHED = "finished"
    ABORTED = "aborted"


_FORWARD = {
    State.CONNECTED: {State.GREETED},
    State.GREETED: {State.EXAMINED},
    State.EXAMINED: {State.AWAITING_IMAGE, State.PREPARED},
    State.AWAITING_IMAGE: {State.EXAMINED},
    State.PREPARED: {State.ARMED},
    State.ARMED: {State.FROZEN},
    State.FROZEN: {State.HELD},
    State.HELD: {State.RESUMED},
    State.RESUMED: {State.FINISHED, State.PREPARED},
}
#: The states before GO: from each of them everything can be undone.
REVERSIBLE = frozenset(State) - {State.RESUMED, State.FINISHED, State.ABORTED}
GREETED = frozenset(State) - {State.CONNECTED, State.FINISHED, State.ABORTED}
FILLING = frozenset({State.PREPARED, State.ARMED, State.FROZEN})

#: The states in which each command may come.
COMMANDS: dict[type[Command], frozenset[State]] = {
    protocol.Hello: frozenset({State.CONNECTED}),
    protocol.Recover: frozenset({State.CONNECTED}),
    protocol.Beat: GREETED | {State.CONNECTED},
    protocol.Ping: GREETED,
    # The coordinator asks for logs after any failure, even of Hello.
    protocol.Logs: GREETED | {State.CONNECTED},
    protocol.CheckPaths: frozenset({State.GREETED, State.EXAMINED}),
    protocol.CheckAddresses: frozenset({State.GREETED, State.EXAMINED}),
    protocol.Examine: frozenset({State.GREETED}),
    protocol.AwaitContainerImage: frozenset({State.EXAMINED}),
    protocol.LoadContainerImage: frozenset({State.AWAITING_IMAGE}),
    protocol.Outlast: frozenset({State.EXAMINED}),
    protocol.Prepare: frozenset({State.EXAMINED}),
    protocol.RenewPages: frozenset({State.PREPARED}),
    protocol.MakeTmpfs: frozenset({State.PREPARED}),
    protocol.RemoveInTmpfs: FILLING,
    protocol.ArmTmpfs: FILLING,
    protocol.TmpfsArchive: FILLING,
    protocol.ListTree: FILLING,
    protocol.ListTmpfs: FILLING,
    protocol.Remove: FILLING,
    protocol.SetTimes: FILLING,
    # The source's engine may log the last lines when the container runs on the target already.
    protocol.Output: FILLING | {State.RESUMED},
    protocol.Arm: frozenset({State.PREPARED}),
    protocol.Freezing: frozenset({State.ARMED}),
    protocol.CriuImages: frozenset({State.FROZEN}),
    protocol.PageMap: frozenset({State.FROZEN}),
    protocol.Restore: frozenset({State.FROZEN}),
    protocol.Go: frozenset({State.HELD}),
    protocol.Abort: REVERSIBLE,
    protocol.Finish: frozenset({State.RESUMED}),
}


def check_command(state: State, command: Command) -> None:
    """Raise ProtocolError unless a command like `command` may come in `state`."""
    if state not in COMMANDS[type(command)]:
        raise ProtocolError(f"{type(command).__name__} may not come in the state {state.value!r}")


def check_transition(old: State, new: State) -> None:
    """Raise InvalidTransition unless the target's half may go from `old` to `new`."""
    back = old in REVERSIBLE and new is State.ABORTED
    if new not in _FORWARD.get(old, ()) and not back:
        raise InvalidTransition(
            f"a container on its way in cannot go from {old.value} to {new.value}"
        )

"""Tests of migrate/agent/state.py: which steps exist, and in which state each command may come."""

from __future__ import annotations

import itertools

import pytest

from migrate.agent.state import COMMANDS, REVERSIBLE, State, check_command, check_transition
from migrate.decisions.state import InvalidTransition
from migrate.wire import protocol
from migrate.wire.message import concrete
from migrate.wire.protocol import Command, ProtocolError
from tests.unit.helpers.hello import hello

#: The commands of a migration that goes well and has all there is, and the state after each.
STORY: list[tuple[Command, State]] = [
    (hello(), State.GREETED),
    (protocol.CheckPaths(required=(), own=(), probe=None), State.GREETED),
    (protocol.Examine(description={}), State.EXAMINED),
    (protocol.Beat(), State.EXAMINED),
    (protocol.CheckAddresses(addresses=()), State.EXAMINED),
    (protocol.Ping(), State.EXAMINED),
    (protocol.Outlast(seconds=60), State.EXAMINED),
    (protocol.AwaitContainerImage(key="0" * 64), State.AWAITING_IMAGE),
    (protocol.LoadContainerImage(), State.EXAMINED),
    (protocol.Prepare(shared=False, network=None, room_bytes=0, page_channels=1), State.PREPARED),
    (protocol.RenewPages(), State.PREPARED),
    (protocol.Remove(tree="/", paths=()), State.PREPARED),
    (protocol.MakeTmpfs(mounts=()), State.PREPARED),
    (protocol.TmpfsArchive(index=0, last=True), State.PREPARED),
    (protocol.Ping(), State.PREPARED),
    (protocol.Logs(), State.PREPARED),
    (protocol.Output(), State.PREPARED),
    (protocol.Arm(macs=(), nftables=True, one_cgroup=True), State.ARMED),
    (protocol.ListTree(tree="/", paths=None), State.ARMED),
    (protocol.SetTimes(tree="/", directories=()), State.ARMED),
    (protocol.ListTmpfs(index=0), State.ARMED),
    (protocol.ArmTmpfs(), State.ARMED),
    (protocol.Freezing(), State.FROZEN),
    (protocol.CriuImages(pieces=()), State.FROZEN),
    (protocol.PageMap(dst_id=0x101, extents=()), State.FROZEN),
    (protocol.Remove(tree="/", paths=()), State.FROZEN),
    (protocol.RemoveInTmpfs(index=0, paths=()), State.FROZEN),
    (protocol.Output(), State.FROZEN),
    (
        protocol.Restore(image_files=0, image_bytes=0, batches=0, proof_seed=None, left_out=()),
        State.HELD,
    ),
    (protocol.Beat(), State.HELD),
    (protocol.Go(frames=()), State.RESUMED),
    (protocol.Beat(), State.RESUMED),
    (protocol.Output(), State.RESUMED),
    (protocol.Finish(), State.FINISHED),
]
#: The only request to an agent that is sent for nothing else.
RECOVER = protocol.Recover(migration_id="0123456789ab", word="status", frames=())


def test_every_command_has_its_states() -> None:
    assert set(COMMANDS) == set(concrete(Command))
    beside = {protocol.Abort, protocol.Recover}
    assert {type(command) for command, _ in STORY} | beside == set(COMMANDS)


def test_each_command_of_the_story_may_come() -> None:
    state = State.CONNECTED
    for command, left in STORY:
        check_command(state, command)
        if left is not state:
            check_transition(state, left)
        state = left


@pytest.mark.parametrize(
    ("command", "states"),
    [
        (protocol.Go(frames=()), {State.HELD}),
        (protocol.Abort(), set(State) - {State.RESUMED, State.FINISHED, State.ABORTED}),
        (protocol.Finish(), {State.RESUMED}),
        (STORY[0][0], {State.CONNECTED}),
        (RECOVER, {State.CONNECTED}),
        (
            protocol.Restore(image_files=0, image_bytes=0, batches=0, proof_seed=None, left_out=()),
            {State.FROZEN},
        ),
        (protocol.CriuImages(pieces=()), {State.FROZEN}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_commands_that_decide_which_host_runs_the_container_come_in_their_states_only(
    command: Command, states: set[State]
) -> None:
    for state in State:
        if state in states:
            check_command(state, command)
        else:
            with pytest.raises(ProtocolError, match=f"may not come in the state {state.value!r}"):
                check_command(state, command)


def test_no_command_comes_after_the_end() -> None:
    for state in (State.FINISHED, State.ABORTED):
        for command, _ in [*STORY, (protocol.Abort(), state), (RECOVER, state)]:
            with pytest.raises(ProtocolError):
                check_command(state, command)


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_no_steps_exist_but_those_of_the_story_and_the_abort(old: State, new: State) -> None:
    story = [State.CONNECTED, *(state for _, state in STORY)]
    forward = {(a, b) for a, b in itertools.pairwise(story) if a is not b} | {
        (State.EXAMINED, State.PREPARED),
        (State.RESUMED, State.PREPARED),  # what was held is lost, and has never run
    }
    if (old, new) in forward or (old in REVERSIBLE and new is State.ABORTED):
        check_transition(old, new)
    else:
        with pytest.raises(InvalidTransition, match=f"from {old.value} to {new.value}"):
            check_transition(old, new)


def test_after_go_there_is_no_way_back() -> None:
    assert {State.RESUMED, State.FINISHED, State.ABORTED}.isdisjoint(REVERSIBLE)
    assert State.HELD in REVERSIBLE

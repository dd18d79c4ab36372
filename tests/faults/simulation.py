"""The commit rule in a simulated world: four programs, a network, and crashes at any step.

The programs are the coordinator and the guardian on the source, the agent and the keeper on the
target. Their rules are the product's own: the states and transitions of migrate/decisions/state.py
and migrate/agent/state.py, and the guardian's and recover's next act of
migrate/decisions/takeover.py. This module has only what is around them: what a step does to the two
containers, what a network and a crash may do, and in which order chance lets all of it happen.

A schedule is drawn from a seed. In each the container must never run on both hosts. At its end,
when the network works again and `recover` has been run, it must run on one, unless a host failed or
both programs that held the only copy were killed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from migrate.agent import state as incoming
from migrate.agent.state import check_command
from migrate.decisions.state import SETTLED, State, check_transition
from migrate.decisions.takeover import Act, Life, Seen, Told, next_act
from migrate.wire import protocol
from migrate.wire.message import ProtocolError

Decide = Callable[[Seen], Act]
#: Steps after which a schedule stops drawing faults, and then stops altogether.
FAULTY_STEPS, MOST_STEPS = 40, 400
#: The chance of a fault at a step, that a word to the target or its answer is lost, and that a
#: container that was killed dies at a step.
FAULT, LOSS, DEATH = 0.08, 0.25, 0.15
RUNS = {incoming.State.RESUMED.value, incoming.State.FINISHED.value}
#: States that are written to disk, and the chance that this comes at a step.
SYNCED, SYNC = {State.KILLED, State.RESUMED, *SETTLED}, 0.3
#: What the guardian enters into the journal.
ENTERED = {
    Act.TURN_BACK: State.ROLLING_BACK,
    Act.FINISH: State.DONE,
    Act.END_BACK: State.ROLLED_BACK,
}
RESTORE = protocol.Restore(image_files=0, image_bytes=0, batches=0, proof_seed=None, left_out=())
GO, ABORT = protocol.Go(frames=()), protocol.Abort()


class Violation(Exception):
    """The container runs on both hosts, or is lost without a cause."""


@dataclass
class World:
    """Both hosts, as they are at one step. `decide` and `sees_death` can be broken on purpose."""

    chance: random.Random
    decide: Decide = next_act
    sees_death: bool = True
    # The source.
    container: str = "runs"  # or "frozen", "dead"
    kill_sent: bool = False
    criu: bool = False
    criu_shared: bool = False  # the guardian has a copy of the conversation's socket
    state: State = State.ARMED
    on_disk: State = State.ARMED
    source_rebooted: bool = False
    coordinator: str = "lives"  # or "hangs", "dead"
    step: str = "freeze"
    guardian: bool = True
    acts: bool = False  # the guardian has taken over
    undone: bool = False
    over: bool = False  # the container was given up as lost
    told: Told | None = None
    tries: int = 0
    # The target.
    half: incoming.State = incoming.State.FROZEN
    copy: str = "none"  # or "held", "runs", "gone"
    agent: str = "lives"
    keeper: bool = True
    # Between them.
    link: bool = True
    reachable: bool = True
    asked: list[protocol.Command] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    # What happened that may end a container.
    host_failed: bool = False
    killed_by_somebody: bool = False
    trace: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raise Violation if the container runs on both hosts."""
        if self.container == "runs" and self.copy == "runs":
            raise Violation(f"it runs on both hosts: {self.trace}")

    def enter(self, state: State) -> None:
        check_transition(self.state, state)
        self.state = state

    # --- the coordinator --------------------------------------------------------------------------

    def coordinate(self) -> None:
        """Take the coordinator's next step."""
        getattr(self, f"_{self.step}")()

    def _freeze(self) -> None:
        if self.container != "dead":
            self.container, self.criu = "frozen", True
        self.asked.append(RESTORE)
        self.enter(State.FROZEN)
        self.step = "wait_held"

    def _wait_held(self) -> None:
        if "Restore" in self.answers:
            self.enter(State.HELD)
            self.step = "look_again"
        elif not self.link or self._late():
            self.step = "roll_back"

    def _look_again(self) -> None:
        disturbed = self.container != "frozen" or not self.criu or not self.link
        self.step = "roll_back" if disturbed else "arm_kill"

    def _arm_kill(self) -> None:
        self.criu_shared = self.guardian
        self.enter(State.KILLING)
        self.step = "kill"

    def _kill(self) -> None:
        self.kill_sent = True
        self.step = "wait_dead"

    def _wait_dead(self) -> None:
        if self.container == "dead" or not self.sees_death:
            self.enter(State.KILLED)
            self.step = "say_go"
        elif self._late():
            self._give_up()

    def _say_go(self) -> None:
        self.asked.append(GO)
        self.step = "wait_resumed"

    def _wait_resumed(self) -> None:
        if "Go" in self.answers:
            self.enter(State.RESUMED)
            self.step = "clean_up"
        elif not self.link or self._late():
            self.step = "other_way"

    def _other_way(self) -> None:
        if self.say(go=True) is Told.OBEYED:
            self.enter(State.RESUMED)
            self.step = "clean_up"
        else:
            self._give_up()

    def _give_up(self) -> None:
        self.acts, self.coordinator = self.guardian, "dead"

    def _clean_up(self) -> None:
        self.criu = False
        self.enter(State.DONE)
        self._end()

    def _roll_back(self) -> None:
        self.enter(State.ROLLING_BACK)
        self._thaw()
        self.asked.append(ABORT)
        self.step = "wait_aborted"

    def _wait_aborted(self) -> None:
        if "Abort" in self.answers or not self.link or self._late():
            if "Abort" in self.answers or self.say(go=False) in (Told.OBEYED, Told.ABSENT):
                self.enter(State.ROLLED_BACK)
                self._end()
            else:
                self._give_up()

    def _end(self) -> None:
        self.coordinator, self.guardian, self.acts = "dead", False, False
        self.link = False

    def _late(self) -> bool:
        return self.chance.random() < 0.05

    def _thaw(self) -> None:
        # Also if SIGKILL is on its way: an init that hangs in the kernel lets its processes run on.
        if self.criu and self.container == "frozen":
            self.container = "runs"
        self.criu = False

    # --- the guardian, and recover ----------------------------------------------------------------

    def guard(self) -> None:
        """Take the guardian's next step: take over from a coordinator that is gone or hangs."""
        if self.acts:
            if not self.take_over():
                self.guardian = self.acts = False
        elif self.coordinator != "lives" and self.state not in SETTLED:
            self.coordinator, self.acts = "dead", True

    def take_over(self) -> bool:
        """Take the next act in a dead coordinator's place, and return whether more will come."""
        life = Life.DEAD if self.container == "dead" else Life.LIVES
        if life is Life.LIVES and self.kill_sent:
            life = Life.DYING
        seen = Seen(
            state=self.state.value,
            life=life,
            criu=self.criu,
            undone=self.undone,
            told=self.told,
            patient=self.tries < 3,
        )
        act = self.decide(seen)
        self.trace.append(act.name)
        self._do(act)
        return act not in (Act.FINISH, Act.END_BACK, Act.GIVE_UP, Act.LEAVE)

    def _do(self, act: Act) -> None:
        """Carry an act of the guardian's out. WAIT and LEAVE change nothing."""
        if act is Act.THAW:
            self._thaw()
        elif act is Act.BURY:
            self.criu = False
        elif act is Act.UNDO:
            self.undone = True
            if self.source_rebooted:  # its engine starts it afresh, by its restart policy
                self.container, self.kill_sent = "runs", False
        elif act in (Act.ABORT, Act.GO):
            self.tries += 1
            self.told = self.say(go=act is Act.GO)
            if act is Act.GO and self.told is Told.OBEYED:
                self.state = State.RESUMED
        elif act is Act.GIVE_UP:  # its engine starts it afresh, by its restart policy
            self.container, self.kill_sent, self.over = "runs", False, True
        elif act is Act.FINISH and self.half.value not in RUNS:
            raise Violation(f"its files are removed, and nobody has run it: {self.trace}")
        self.state = ENTERED.get(act, self.state)

    # --- the target -------------------------------------------------------------------------------

    def say(self, *, go: bool) -> Told:
        """Say a word to what holds the container, over a new connection (agent/recover.py)."""
        if not self.reachable or self.chance.random() < LOSS:
            return Told.UNREACHED
        told = self._hear(go=go)
        return Told.UNREACHED if self.chance.random() < LOSS else told

    def _hear(self, *, go: bool) -> Told:
        if self.half.value in RUNS:
            return Told.OBEYED if go else Told.REFUSED
        if go and self._has_lost_it():
            return Told.LOST
        if self.half is not incoming.State.HELD:
            if not go and self.half in incoming.REVERSIBLE:
                self._abort()
                self.agent = "dead"
            return Told.ABSENT
        if self.agent == "hangs":  # it was stopped, and is woken, or it is killed for its keeper
            if self.chance.random() < 0.5:
                self.agent = "lives"
            elif not self.keeper:
                return Told.REFUSED
            else:
                self.agent = "dead"
        if self.agent == "dead" and not self.keeper:
            return Told.ABSENT
        if go:
            self._resume()
        else:
            self._abort()
        return Told.OBEYED

    def _has_lost_it(self) -> bool:
        """Return whether the target's journal says that it has never run, and nobody holds it."""
        unheld = self.agent == "dead" and not self.keeper
        return self.half.value not in RUNS and (unheld or self.half is incoming.State.ABORTED)

    def answer(self) -> None:
        """Have the agent obey the next request on its channel, or see the channel's end."""
        if not self.asked:
            if not self.link:
                self._channel_ended()
            return
        request = self.asked.pop(0)
        try:
            check_command(self.half, request)
        except ProtocolError:
            return
        if isinstance(request, protocol.Restore):
            self.half, self.copy = incoming.State.HELD, "held"
        elif isinstance(request, protocol.Go):
            self._resume()
        else:
            self._abort()
        if self.link:
            self.answers.append(type(request).__name__)

    def _channel_ended(self) -> None:
        if self.half is incoming.State.HELD:
            return  # it holds on
        if self.half in incoming.REVERSIBLE:
            self._abort()
        self.agent = "dead"

    def _resume(self) -> None:
        incoming.check_transition(self.half, incoming.State.RESUMED)
        self.half = incoming.State.RESUMED
        if self.copy == "held":
            self.copy = "runs"

    def _abort(self) -> None:
        incoming.check_transition(self.half, incoming.State.ABORTED)
        self.half = incoming.State.ABORTED
        self.copy = "none"

    # --- chance -----------------------------------------------------------------------------------

    def by_itself(self) -> None:
        """Let happen what the kernel and CRIU do by themselves."""
        if self.kill_sent and self.container != "dead" and self.chance.random() < DEATH:
            self.container = "dead"
        if self.state in SYNCED and self.chance.random() < SYNC:
            self.on_disk = self.state
        held_by = self.coordinator == "dead" and not (self.criu_shared and self.guardian)
        if self.criu and held_by:
            self._thaw()
        if self.agent == "dead" and not self.keeper and self.copy == "held":
            self.copy = "gone"

    def fault(self) -> None:
        """Let one thing go wrong."""
        name = self.chance.choice(FAULTS)
        self.trace.append(name)
        getattr(self, f"_{name}")()

    def _kill_coordinator(self) -> None:
        self.coordinator, self.link = "dead", False

    def _hang_coordinator(self) -> None:
        if self.coordinator == "lives":
            self.coordinator = "hangs"

    def _kill_guardian(self) -> None:
        self.guardian = self.acts = False

    def _kill_agent(self) -> None:
        self.agent, self.link = "dead", False
        if self.half is not incoming.State.HELD and self.half in incoming.REVERSIBLE:
            self.half, self.copy = incoming.State.ABORTED, "none"

    def _hang_agent(self) -> None:
        if self.agent == "lives":
            self.agent = "hangs"

    def _kill_keeper(self) -> None:
        self.keeper = False

    def _kill_criu(self) -> None:
        self._thaw()

    def _lose_link(self) -> None:
        self.link = False
        del self.asked[self.chance.randint(0, len(self.asked)) :]

    def _part_hosts(self) -> None:
        self.reachable = not self.reachable

    def _kill_container(self) -> None:
        self.kill_sent = self.killed_by_somebody = True

    def _reboot_source(self) -> None:
        self.container, self.criu, self.host_failed = "dead", False, True
        self.coordinator, self.guardian, self.acts, self.link = "dead", False, False, False
        self.source_rebooted, self.undone, self.told, self.tries = True, False, None, 0
        # What was entered after ARMED and not synced is lost (migrate/journal/account.py).
        self.state = State.HELD if self.on_disk is State.ARMED else self.on_disk

    def _reboot_target(self) -> None:
        self.agent, self.keeper, self.link, self.host_failed = "dead", False, False, True
        self.copy = "gone" if self.copy in ("held", "runs") else self.copy


FAULTS = (
    "kill_coordinator",
    "hang_coordinator",
    "kill_guardian",
    "kill_agent",
    "hang_agent",
    "kill_keeper",
    "kill_criu",
    "lose_link",
    "part_hosts",
    "kill_container",
    "reboot_source",
    "reboot_target",
)


def run(seed: int, decide: Decide = next_act, *, sees_death: bool = True) -> World:
    """Run one schedule to its end, and return the world. Raises Violation."""
    world = World(chance=random.Random(seed), decide=decide, sees_death=sees_death)  # noqa: S311
    for number in range(MOST_STEPS):
        _turn(world, faulty=number < FAULTY_STEPS)
        world.check()
        if world.coordinator == "dead" and not world.guardian and number > FAULTY_STEPS:
            break
    _recovered(world)
    return world


def _turn(world: World, *, faulty: bool) -> None:
    if faulty and world.chance.random() < FAULT:
        world.fault()
    elif not faulty:
        world.reachable = True
    who = world.chance.randrange(4)
    if who == 0 and world.coordinator == "lives":
        world.coordinate()
    elif who == 1 and world.guardian:
        world.guard()
    elif who == 2 and world.agent == "lives":
        world.answer()
    world.by_itself()


def _recovered(world: World) -> None:
    """Run `recover` on the source as often as it takes, and look where the container is then."""
    world.reachable = True
    for _ in range(MOST_STEPS):
        world.by_itself()
        world.check()
        if world.over or world.state in SETTLED - {State.RESUMED}:
            break
        if not world.take_over():
            world.told, world.tries = None, 0
    only_copy_killed = world.agent != "lives" and not world.keeper
    if world.host_failed or world.killed_by_somebody or only_copy_killed:
        return
    if (world.container == "runs") + (world.copy == "runs") != 1:
        raise Violation(f"it runs nowhere: {world.trace}")
    if world.copy == "held":
        raise Violation(f"a copy is held for ever: {world.trace}")

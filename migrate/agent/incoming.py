"""The target's half of a migration: it carries out the coordinator's requests, and undoes them."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkpoint.engines.base import IncomingContainer
from checkpoint.engines.registry import engine_named
from checkpoint.errors import ContainerLocked, ConversationLost, RestoreLost
from checkpoint.host import lock, proc
from checkpoint.host.ram_directory import directory_of
from checkpoint.host.wakeful import wakeful
from checkpoint.memory.pager.keeper import Keeper
from checkpoint.schema import harmless
from checkpoint.undo import Made, Undo
from migrate.agent import looks
from migrate.agent.arriving_image import ArrivingImage
from migrate.agent.control import control_path
from migrate.agent.last_asked import LastAsked
from migrate.agent.plug_command import IMAGE
from migrate.agent.received import Received
from migrate.agent.restore import ArmedRestore, Prepared
from migrate.agent.state import REVERSIBLE, State, check_transition
from migrate.agent.successor import hand_over, succeed
from migrate.files.tree_door import TreeDoor, socket_path
from migrate.host_facts import collect
from migrate.journal.book import MigrationJournal, now_ms, process_record
from migrate.journal.records import TARGET, Begun
from migrate.leftovers import sweep
from migrate.limits import Limits
from migrate.network import late_frames
from migrate.network.late_frames import Frame
from migrate.network.target import TargetNetwork
from migrate.wire import protocol
from migrate.wire.protocol import Answer, Command


class Incoming:
    """The target's half of one migration: its state, and what it made on the target.

    `_undo` removes what this migration made on the target, by identity
    (checkpoint/host/identity.py). `_tidy` removes what only the migration needed. An abort runs
    both, a finished migration runs `_tidy` alone. The container's lock is released last, but
    before the coordinator has its answer: once a user sees the migration end, the container can
    be migrated again.
    """

    def __init__(self, hello: protocol.Hello, log: Callable[[str], None], limits: Limits) -> None:
        """Lock the container on the target.

        Raises ContainerLocked if another task has the container; then nothing was done.
        """
        self._id = hello.migration_id
        self._log, self._limits = log, limits
        self._container_name = hello.container_name
        self._engine = engine_named(hello.engine)
        self._holder = lock.holder_text(f"migration {self._id}", hello.source, platform.node())
        #: What was made before the restore was armed, and since then.
        self._undo_first, self._undo = contextlib.ExitStack(), Undo(self._made)
        self._tidy = contextlib.ExitStack()
        self._locks: list[int] = []
        if os.geteuid() == 0:  # the facts say so of another user, whom the coordinator refuses
            key = lock.name_key(hello.engine, self._container_name)
            taken = lock.locked([key], self._holder)
            self._locks += self._tidy.enter_context(taken).descriptors
        self._awake = self._tidy.enter_context(contextlib.ExitStack())
        self.state = State.GREETED
        self._hello = hello
        #: Set by Prepare, the first to make something that may have to be undone.
        self._journal: MigrationJournal | None = None
        #: Set by Examine; the next three by AwaitContainerImage, Prepare and Arm.
        self._arrival: IncomingContainer | None = None
        self._image: ArrivingImage | None = None
        self._prepared: Prepared | None = None
        self._first_trees: tuple[tuple[str, Path], ...] = ()
        self._restore: ArmedRestore | None = None
        #: Whether a restore was lost after GO, and can be made again; the requests for it.
        self._lost, self._asked = False, LastAsked()
        #: What only the present restore needs; in `_tidy` from Prepare on.
        self._restore_tidy = contextlib.ExitStack()
        self.trees = TreeDoor(socket_path(self._id))
        self._tidy.callback(self.trees.close)

    @property
    def holds_container(self) -> bool:
        """Return whether the container is held: restored, and neither resumed nor dropped yet.

        It is still held if what was restored is lost before it ran: GO restores it once more.
        """
        return self.state is State.HELD or (self._lost and self.state in REVERSIBLE)

    def handle(self, request: Command) -> Iterable[Answer]:
        """Carry out one command and return its answers.

        The answers of Restore are an iterator that does part of the work: take all of them. The
        caller has checked that the command may come in this state (check_command of state.py).
        """
        handlers: dict[type[Command], Callable[[Any], Answer]] = {
            protocol.CheckAddresses: looks.check_addresses,
            protocol.CheckPaths: looks.check_paths,
            protocol.Examine: self._examine,
            protocol.AwaitContainerImage: self._await_image,
            protocol.LoadContainerImage: self._load_image,
            protocol.Prepare: self._prepare,
            protocol.Output: self._output,
            protocol.Arm: self._arm,
            protocol.Freezing: self._freezing,
            protocol.Go: self._go,
            protocol.Abort: self._abort,
            protocol.Finish: self._finish,
        }
        if (handler := handlers.get(type(request))) is not None:
            return [handler(request)]
        if isinstance(request, protocol.Restore):
            return self._restore_and_hold(request)
        assert self._prepared is not None
        return self._prepared.received.handle(request)

    @property
    def control_path(self) -> Path:
        """The path of the socket at which an operator can end a hold."""
        return control_path(self._id)

    @property
    def directory(self) -> Path:
        """The directory of image files and logs, in RAM; Prepare makes it."""
        return directory_of(self._id)

    def check(self) -> int:
        """Return how many batches of pages are in place.

        Raises what makes a migration fail that goes on by itself: of page channels, of a hold.
        """
        if self._restore is not None and self.state is State.HELD:
            self._restore.check_held()
        return 0 if self._prepared is None else self._prepared.received.check_pages()

    def welcome(self) -> protocol.Welcome:
        """Return the answer to Hello, and remove what killed runs left on the target."""
        if os.geteuid() == 0:  # the coordinator refuses another user next
            sweep(self._log)
        facts = collect(self._engine, self._container_name)
        return protocol.Welcome(version=protocol.PROTOCOL_VERSION, facts=facts)

    def _examine(self, request: protocol.Examine) -> Answer:
        arrival = self._engine.arrival(self._container_name, request.description, self._undo)
        objections = tuple(map(harmless, [*self._take_volumes(arrival), *arrival.objections()]))
        layers = arrival.layers_there()
        self._arrival = arrival
        self._advance(State.EXAMINED)
        return protocol.Examined(
            objections=objections, layers=None if layers is None else tuple(layers)
        )

    def _take_volumes(self, arrival: IncomingContainer) -> Iterator[str]:
        """Lock the engine's volumes that the container brings, until the migration ends.

        Yields an objection, for people, for each volume that another migration has locked.
        """
        for name in arrival.volumes():
            try:
                taken = lock.locked([lock.volume_key(self._engine.name, name)], self._holder)
                self._locks += self._tidy.enter_context(taken).descriptors
            except ContainerLocked as error:
                yield f"volume {name!r} is brought by another move: {error.holder}"

    def _await_image(self, request: protocol.AwaitContainerImage) -> Answer:
        self._image = ArrivingImage(request.key, self._id, self._tidy)
        self._advance(State.AWAITING_IMAGE)
        self.trees.show([(IMAGE, self._image.path)])
        return protocol.Done()

    def _load_image(self, _: protocol.LoadContainerImage) -> Answer:
        assert self._arrival is not None
        assert self._image is not None
        self._image.load(self._arrival.load_image)
        self._advance(State.EXAMINED)
        return protocol.Done()

    def _prepare(self, request: protocol.Prepare) -> Answer:
        assert self._arrival is not None
        received = Received(
            self._id, request, self.trees, self._tidy, self._log, batch_s=self._limits.batch_s
        )
        # Now: a fork would take long in the freeze.
        keeper = Keeper(received.directory, succeed)
        self._undo.callback(keeper.release)
        self._journal = MigrationJournal(self._begun(keeper))
        trees = self._arrival.prepare(bytes(request.payload), shared=request.shared)
        self._first_trees = tuple(trees.items())
        network = TargetNetwork(request.network, self._undo, self._tidy, self._log)
        self._prepared = Prepared(
            arrival=self._arrival, received=received, keeper=keeper, network=network
        )
        self._tidy.push(self._restore_tidy)
        self._advance(State.PREPARED)
        self._journal.sync()
        return protocol.Prepared(trees=self.trees.show(self._first_trees))

    def _output(self, request: protocol.Output) -> Answer:
        assert self._arrival is not None
        self._arrival.take_output(bytes(request.payload))
        return protocol.Done()

    def _arm(self, request: protocol.Arm) -> Answer:
        assert self._prepared is not None
        assert self._arrival is not None
        if again := self._restore is not None:
            self._clear_restore()
        self._asked.arm = request
        self._prepared.received.settle()
        self._undo_first.push(self._undo.pop_all())
        self._restore = ArmedRestore(self._prepared, request, self._limits, self._log)
        self._restore.arm(self._id, self._undo, self._restore_tidy)
        self._advance(State.ARMED)
        assert self._journal is not None
        self._journal.sync()
        trees = self.trees.show(self._restore.roots().items())
        return protocol.Armed(trees=() if again and self._arrival.keeps_files else trees)

    def _freezing(self, _: protocol.Freezing) -> Answer:
        self._awake.enter_context(wakeful())
        self._advance(State.FROZEN)
        return protocol.Done()

    def _restore_and_hold(self, request: protocol.Restore) -> Iterator[Answer]:
        assert self._restore is not None
        self._asked.restore = request
        held = self._restore.hold(request, self._undo)
        self._hand_over()
        self._advance(State.HELD)
        self._lost = False
        yield held
        # The source has its answer, and needs no processor of the target for a moment.
        self._restore.warm()

    def _hand_over(self) -> None:
        """Have the keeper hold the container, too, so that it outlives this process."""
        assert self._prepared is not None
        assert self._restore is not None
        assert self._journal is not None
        hand_over(
            self._restore.handover(),
            self._prepared.keeper,
            self._locks,
            migration_id=self._id,
            container_name=self._container_name,
            directory=self.directory,
            limits=self._limits,
            journal=self._journal.fileno(),
        )

    def _go(self, request: protocol.Go) -> Answer:
        return self.go(late_frames.split(request.frames, request.payload))

    def go(self, frames: Iterable[Frame] = ()) -> protocol.Resumed:
        """Resume the held container and make it reachable. From then on nothing is undone.

        `frames` came for it on the source in the freeze.

        A failure of the links, the announcement or the engine's records is only logged: it must
        not keep the container from running. Raises ConversationLost if CRIU does not report the
        resume or if the engine's restore fails, and InvalidTransition if no container is held.
        Raises RestoreLost if nothing of it has run: the state is PREPARED then, for another Arm.
        Without one, another `go` restores the container once more first.
        """
        assert self._restore is not None
        assert self._arrival is not None
        go_ns = time.monotonic_ns()
        if self._lost:
            self._asked.obey_again(self.handle, self.state)
        check_transition(self.state, State.RESUMED)
        # First the journal: whoever goes on after this process must not drop what may run.
        self._advance(State.RESUMED)
        self._restore.bring(frames)
        try:
            self._restore.check_held()
            self._restore.release()
            resumed_ns = self._restore.reach()
        except ConversationLost as error:
            if not self._restore.end_unrun():
                raise
            self._advance(State.PREPARED)
            self._lost = self._arrival.keeps_files
            raise RestoreLost(f"what was restored is lost before it ran ({error})") from error
        self._awake.close()
        stamps = self._restore.settle(self._undo)
        # The source removes what it has of the container once it knows that this host runs it.
        assert self._journal is not None
        self._journal.sync()
        return protocol.Resumed(go_ns=go_ns, resumed_ns=resumed_ns, stamps=stamps)

    def _clear_restore(self) -> None:
        """Remove what is left of a restore that never ran, so that another one can be armed."""
        assert self._prepared is not None
        network, received = self._prepared.network, self._prepared.received
        self._undo.close()
        self._restore_tidy.close()
        self._prepared.keeper.release()
        keeper = Keeper(received.directory, succeed)
        self._undo_first.callback(keeper.release)
        if not network.is_own:
            network = TargetNetwork(None, self._undo, self._tidy, self._log)
        self._prepared = replace(self._prepared, keeper=keeper, network=network)
        self.trees.show(self._first_trees)

    def abort(self) -> None:
        """Undo everything that this migration made on the target, and drop a held container.

        Raises InvalidTransition after GO.
        """
        self._advance(State.ABORTED)
        self.trees.close()
        with self._ending(), contextlib.ExitStack() as last:
            last.callback(self._tidy.close)
            last.callback(self._undo_first.close)
            self._undo.close()

    def describe(self) -> str:
        held = f"container {self._container_name!r} is held on {platform.node()}"
        return f"{held}, {'to be restored once more' if self._lost else 'restored but not running'}"

    def _abort(self, _: protocol.Abort) -> Answer:
        self.abort()
        return protocol.Done()

    def _finish(self, _: protocol.Finish) -> Answer:
        assert self._restore is not None
        with self._ending():
            finished = self._restore.fill()
            self._tidy.close()
            self._advance(State.FINISHED)
        return finished

    def close(self) -> None:
        """End this half of the migration after the coordinator's channel has ended.

        Before GO this undoes everything. It would drop a held container, too: the caller first
        waits until an operator has ended the hold. After GO it fills in the rest of memory, then
        removes what only the migration needed.
        """
        if self.state in REVERSIBLE:
            self.abort()
        elif self.state is State.RESUMED:
            assert self._restore is not None
            with self._ending():
                try:
                    self._restore.fill()
                finally:
                    self._tidy.close()

    def _advance(self, state: State) -> None:
        """Enter `state`. Raises InvalidTransition if the present state does not lead to it."""
        check_transition(self.state, state)
        self.state = state
        if self._journal is not None:
            enter = self._journal.resumed if state is State.RESUMED else self._journal.entered
            enter(state.value)

    def _made(self, thing: Made, passing: bool) -> None:
        """Enter a thing into the journal, so that another process can remove it."""
        if self._journal is not None:
            self._journal.made(thing, passing)

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Enter into the journal that the block was the last act on the target.

        If the block fails, the journal has no end: the next start tries again to remove what is
        left.
        """
        try:
            yield
            if self._journal is not None:
                self._journal.end(self.state.value)
        finally:
            if self._journal is not None:
                self._journal.close()
                self._journal = None

    def _begun(self, keeper: Keeper) -> Begun:
        return Begun(
            at_ms=now_ms(),
            boot_id=proc.boot_id(),
            migration_id=self._id,
            side=TARGET,
            engine=self._hello.engine,
            container_name=self._container_name,
            source=self._hello.source,
            target=platform.node(),
            process=process_record(os.getpid()),
            stand_by=process_record(keeper.pid),
        )

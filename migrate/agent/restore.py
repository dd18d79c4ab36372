"""The engine's restore on the target: armed, held, and then resumed or dropped."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from checkpoint.criu import log as criu_log
from checkpoint.criu.edits import Edits
from checkpoint.criu.interposer import Conversation, Interposer
from checkpoint.criu.roles import SETUP_NAMESPACES, RestoreRole
from checkpoint.criu.shim_install import install_shim, rpc_socket
from checkpoint.engines.base import IncomingContainer
from checkpoint.errors import CheckpointError, ConversationLost, CriuFailed, reason
from checkpoint.host import proc
from checkpoint.host.processes import Init, RestoredInit
from checkpoint.host.worker import Worker
from checkpoint.memory.pager.keeper import Keeper
from checkpoint.memory.pager.pager import Pager
from checkpoint.network.guard import silenced
from checkpoint.network.model import Network
from checkpoint.undo import Undo
from migrate.agent.received import Received
from migrate.limits import Limits
from migrate.network.late_frames import Frame
from migrate.network.target import TargetNetwork
from migrate.no_pauses import no_pauses
from migrate.wire import protocol
from migrate.wire.values import Stamp, Waits

#: CRIU's notification before it unlocks the network.
UNLOCKING = "network-unlock"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The parts of the target's half that a restore needs, complete once Prepare is answered."""

    arrival: IncomingContainer
    received: Received
    keeper: Keeper
    network: TargetNetwork


@dataclass(frozen=True, kw_only=True)
class Handover:
    """A held restore, as another process goes on with it (successor.py).

    `engine_part` takes `engine_fds` (IncomingContainer.handover). `kept_fds` are only kept open.
    """

    network: Network | None
    conversation: Conversation
    engine_pid: int
    engine_part: Callable[[list[int]], None] | None
    engine_fds: list[int]
    kept_fds: list[int]


class ArmedRestore:
    """One restore by the target's engine, from its start until the container runs or is dropped.

    `log` takes a line for each failure that does not end the restore.
    """

    def __init__(
        self,
        prepared: Prepared,
        request: protocol.Arm,
        limits: Limits,
        log: Callable[[str], None],
    ) -> None:
        self._prepared, self._limits, self._log = prepared, limits, log
        self._macs = request.macs
        self._process: subprocess.Popen[bytes] | None = None
        self._init: Init | None = None
        self._pager: Pager | None = None
        edits = Edits(
            nftables=request.nftables,
            one_cgroup=request.one_cgroup,
            external_mounts=prepared.received.tmpfs.external_mounts(),
        )
        self._role = RestoreRole(edits, prepared.received.images)
        self._role.at[SETUP_NAMESPACES] = self._open_init

    def arm(self, migration_id: str, undo: Undo, tidy: contextlib.ExitStack) -> None:
        """Start the engine's restore, and return when it is held at its RESTORE request.

        `undo` gets what drops the container, `tidy` what ends the conversation with CRIU. If the
        engine makes the network, its links are down on return, and frames from the container are
        dropped until then (checkpoint/network/guard.py). Raises NameInUse, CriuFailed or
        ConversationLost.
        """
        received = self._prepared.received
        tidy.callback(self._close_init)
        env = install_shim(received.directory)
        tidy.enter_context(Interposer(rpc_socket(received.directory), self._role))
        with silenced(self._macs, migration_id, undo):
            self._process = self._prepared.arrival.start_restore(
                received.directory, received.images, env
            )
            Worker("engine's restore", partial(self._watch, self._process))
            try:
                self._role.request_gate.wait_reached(self._limits.arm_s)
                self._prepared.arrival.restore_held()
            except ConversationLost as error:
                raise self._why(error, "arming the restore") from error
            finally:
                # Later than what the engine has made: the undo ends the restore first.
                undo.callback(self._refuse)
            if self._macs:
                self._prepared.network.adopt(self._role.network_namespace)
        tidy.enter_context(no_pauses())

    def roots(self) -> dict[str, Path]:
        """Return the paths on the target of the container's root and of its bind mounts.

        They are {destination in the container: path}, and known once the restore is armed.
        """
        return self._role.roots()

    def hold(self, request: protocol.Restore, undo: Undo) -> protocol.Held:
        """Have CRIU restore the container from what arrived, and return when it is held.

        While CRIU makes the tasks, the digests for the proof of memory are made. The answer has
        them, and three stamps on the target's CLOCK_MONOTONIC. Raises ImageError, CriuFailed or
        ConversationLost.
        """
        came, received = time.monotonic_ns(), self._prepared.received
        if lazy := received.complete(request):
            self._role.lazy = True
            self._pager = Pager(
                received.images,
                received.store,
                lazy,
                self._prepared.keeper,
                self._role.done_gate.lose,
            )
            undo.callback(self._pager.stop)
        received.trees.complete()
        released = time.monotonic_ns()
        self._role.request_gate.open()
        self._role.wait_making_tasks(self._limits.restore_s)
        proving = time.monotonic_ns()
        digests, pages = received.prove(request.proof_seed, request.left_out)
        proved = time.monotonic_ns()
        try:
            self._role.done_gate.wait_reached(self._limits.restore_s - (proving - released) / 1e9)
        except ConversationLost as error:
            self._check_pager()
            raise self._why(error, "restore") from error
        self._check_pager()
        self._init = self._init or Init(self._role.pid)
        pid, start_ticks = self._init.identity
        undo.made(RestoredInit(pid=pid, start_ticks=start_ticks))
        undo.callback(self._refuse)  # once more: CRIU gets the first chance
        return protocol.Held(
            stamps=(
                Stamp("images complete", came),
                Stamp("restore released", released),
                Stamp("held", time.monotonic_ns()),
            ),
            pages=pages,
            proof_us=(proved - proving) // 1000,
            payload=digests,
        )

    def _check_pager(self) -> None:
        """Raise ImageError if the pager has failed: tasks would wait for their pages for ever."""
        if self._pager is not None:
            self._pager.check()

    def check_held(self) -> None:
        """Raise ConversationLost if nothing can resume the held container any more, or keep it.

        CRIU kills what it has restored when the runtime that started it has ended.
        """
        if self._process is not None and (status := self._process.poll()) is not None:
            raise ConversationLost(f"the engine's restore ended with status {status}")
        if not self._role.criu_lives():
            raise ConversationLost("CRIU ended while it held the restored container")
        self._prepared.arrival.check_held()

    def warm(self) -> None:
        """Have the pager bring the pages that came more than once: they are needed first."""
        with self._noted("the pages that are wanted first come with the rest"):
            if self._pager is not None:
                self._pager.warm()

    def bring(self, frames: Iterable[Frame]) -> None:
        """Take the frames that came for the container on the source in the freeze.

        `reach` gives them to the container.
        """
        with self._noted("frames that came in the freeze were lost"):
            for index, frame in frames:
                self._prepared.network.bring(index, frame)

    def handover(self) -> Handover:
        """Return what another process needs to go on with the held restore."""
        assert self._process is not None
        part, engine_fds = self._prepared.arrival.handover()
        conversation = self._role.conversation
        network = self._prepared.network.network
        if network is not None and not self._prepared.network.is_own:
            # Its path was CRIU's descriptor, whose number may mean another file by now.
            network = replace(network, path=proc.path(self._role.pid, "ns", "net"))
        return Handover(
            network=network,
            conversation=conversation,
            engine_pid=self._process.pid,
            engine_part=part,
            engine_fds=engine_fds,
            kept_fds=self._pager.connection if self._pager is not None else [],
        )

    def release(self) -> None:
        """Release the held restore: CRIU unlocks the network and resumes the container."""
        self._role.at[UNLOCKING] = self._take_frames
        self._role.done_gate.open()

    def reach(self) -> int:
        """Make the released container reachable, and wait until CRIU has resumed it.

        Returns when it was seen to run (CLOCK_MONOTONIC of the target, ns). Raises
        ConversationLost if CRIU ends without a resume, or takes longer than `resume_s`.
        """
        with self._noted("the container's links"):
            self._prepared.network.connect()  # CRIU unlocks the network meanwhile, and takes longer
        self._role.wait_resumed(self._limits.resume_s)
        resumed_ns = time.monotonic_ns()
        with self._noted("the container's network"):
            self._prepared.network.give_frames()
            self._prepared.network.announce()
        return resumed_ns

    def end_unrun(self) -> bool:
        """End a restore that was lost after GO, and return whether nothing of it has ever run.

        CRIU first unlocks the network and tells the pager, and then lets the tasks go
        (criu/cr-restore.c). If it has not done either, what it had restored is killed. Otherwise
        nothing is done: the container may run.
        """
        self._role.refuse()
        self._role.end(self._limits.end_s)
        locked = all(stamp.name != UNLOCKING for stamp in self._role.stamps)
        if not locked and not (self._pager and self._pager.never_let_go(self._limits.end_s)):
            return False
        assert self._init is not None
        if not self._init.end(self._limits.death_s):
            return False
        if self._prepared.network.is_own:
            self._prepared.network.withdraw()
        return True

    def settle(self, undo: Undo) -> tuple[Stamp, ...]:
        """Wait until the engine's restore has ended, and have the engine keep the container.

        The passing things of `undo` go. Returns the stamps of the conversation with CRIU. Raises
        ConversationLost if the engine's restore fails, or takes longer than `resume_s`.
        """
        self._wait_runtime(self._limits.resume_s)
        with self._noted("the container's engine"):
            self._prepared.arrival.settle()
        with self._noted("the container's engine"):
            undo.settle()
        return tuple(Stamp(stamp.name, stamp.at_ns) for stamp in self._role.stamps)

    def fill(self) -> protocol.Finished:
        """Fill in the rest of memory, and return when all of it is in place.

        Call it late: the pages that the container needs for its first answers must come first.
        Raises ImageError if memory is not in place after `fill_s`, or if this process failed and
        the keeper filled it in.
        """
        if self._pager is None:
            self._prepared.keeper.release()
            return protocol.Finished(stamps=(), filled_bytes=0, waits=Waits(0, 0, 0, 0))
        self._pager.fill()
        self._pager.wait(self._limits.fill_s)
        served = self._pager.served
        return protocol.Finished(
            stamps=(Stamp("memory in place", served.finished_ns),),
            filled_bytes=served.copied_bytes,
            waits=Waits(*served.waits_us()),
        )

    def _take_frames(self) -> None:
        with self._noted("the container's network"):
            self._prepared.network.take_frames()

    @contextlib.contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        """Log a failure of the block and go on: the container runs, or is about to."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  (a container without this is better than none)
            self._log(f"{what}: {reason(error)}")

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        self._role.lose(f"the engine's restore ended with status {status}")

    def _wait_runtime(self, timeout_s: float) -> None:
        assert self._process is not None
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ConversationLost(
                f"the engine's restore did not end {timeout_s:g} s after the resume"
            ) from error
        if status != 0:
            raise ConversationLost(f"the engine's restore ended with status {status}")

    def _open_init(self) -> None:
        self._init = Init(self._role.pid)

    def _close_init(self) -> None:
        if self._init is not None:
            self._init.close()
            self._init = None

    def _refuse(self) -> None:
        """Refuse the restore: CRIU kills what it restored, and the engine's restore cleans up.

        Each has `end_s` to end, and is killed then. A CRIU that was killed has killed nothing.
        """
        self._role.refuse()
        if not self._role.end(self._limits.end_s):
            self._log(f"CRIU did not end in {self._limits.end_s:g} s and was killed")
        if self._init is not None and not self._init.end(self._limits.death_s):
            self._log(f"process {self._init.pid} was sent SIGKILL, and is not dead yet")
        if self._process is not None:
            try:
                self._process.wait(self._limits.end_s)
            except subprocess.TimeoutExpired:
                self._log(
                    f"the engine's restore did not end in {self._limits.end_s:g} s and was killed"
                )
                self._process.kill()
                self._process.wait()

    def _why(self, error: ConversationLost, stage: str) -> CheckpointError:
        """Return CriuFailed with the errors that CRIU, the runtime or the engine has logged.

        Without such a line `error` itself is returned.
        """
        images = self._prepared.received.images
        errors = criu_log.errors(images / "restore.log") or criu_log.runtime_errors(
            images / "runtime.log"
        )
        errors = errors or criu_log.last_words(images / "engine.log")
        return CriuFailed(stage, errors) if errors else error

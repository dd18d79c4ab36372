"""One container on its way in: every request of the coordinator, and how each is undone."""

from __future__ import annotations

import contextlib
import gc
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from checkpoint.criu import log as criu_log
from checkpoint.criu.interposer import Interposer
from checkpoint.criu.session import Edits, RestoreRole
from checkpoint.criu.shim_install import install_shim, rpc_socket
from checkpoint.errors import CheckpointError, ConversationLost, CriuFailed
from checkpoint.host.ownership import private_directory
from checkpoint.host.wakeful import wakeful
from checkpoint.images.directory import RUN
from checkpoint.memory.pager import Pager
from checkpoint.network import link
from checkpoint.network.guard import silenced
from checkpoint.runtimes.base import MARKER
from checkpoint.runtimes.registry import runtime_named
from checkpoint.schema import harmless
from migrate import protocol
from migrate.agent.attachment import Attachment
from migrate.agent.collect import collect
from migrate.agent.received import Received
from migrate.agent.recover import control_path
from migrate.limits import Limits
from migrate.protocol import Answer, Command
from migrate.values import Stamp, Station, Waits

#: On disk; files of images stay until the engine has them.
INCOMING_IMAGES = Path("/var/lib/migrate/images")


class Incoming:
    """The target's half of a move.

    `_undo` restores the host to what it was; `_tidy` removes what only the move needed. An abort runs
    both, a finished move the second.
    """

    def __init__(
        self, migration_id: str, runtime: str, container_id: str, log: Callable[[str], None], limits: Limits
    ) -> None:
        self._id = migration_id
        self._log = log
        self._limits = limits
        self._container_id = container_id
        self._runtime = runtime_named(runtime)
        self._undo = contextlib.ExitStack()
        self._tidy = contextlib.ExitStack()
        self._awake = self._tidy.enter_context(contextlib.ExitStack())
        self.control_path = control_path(migration_id)
        self.holds_container = False
        self._resumed = False
        self._restore: subprocess.Popen[bytes] | None = None
        self._pager: Pager | None = None
        self._prepared: Received | None = None

    # --- requests, in the order of a move ---------------------------------------------------------

    def handle(self, request: Command) -> Iterable[Answer]:
        """Do what is asked; the answer says when and with what result."""
        handlers: dict[type[Command], Callable[[Any], Answer]] = {
            protocol.CheckAddresses: self._check_addresses,
            protocol.CheckPaths: self._check_paths,
            protocol.Examine: self._examine,
            protocol.AwaitImage: self._await_image,
            protocol.LoadImage: self._load_image,
            protocol.Prepare: self._prepare,
            protocol.Output: self._output,
            protocol.Arm: self._arm,
            protocol.Freezing: self._freezing,
            protocol.Restore: self._restore_and_hold,
            protocol.Go: self._go,
            protocol.Abort: self._abort,
            protocol.Finish: self._finish,
        }
        if (handler := handlers.get(type(request))) is not None:
            return [handler(request)]
        return self._received.handle(request)

    @property
    def _received(self) -> Received:
        if self._prepared is None:
            raise protocol.ProtocolError("Prepare must come first")
        return self._prepared

    @property
    def directory(self) -> Path:
        """Where images and logs are, once there are any."""
        return RUN / self._id

    def check_pages(self) -> None:
        """Raise what went wrong with pages so far."""
        if self._prepared is not None:
            self._prepared.check_pages()

    def welcome(self) -> protocol.Welcome:
        """Answer to Hello."""
        facts = collect(self._runtime, self._container_id)
        return protocol.Welcome(version=protocol.PROTOCOL_VERSION, facts=facts)

    def _check_addresses(self, request: protocol.CheckAddresses) -> Answer:
        taken = tuple(
            Station(address, mac)
            for address, own_mac, bridge in request.addresses
            if Path("/sys/class/net", bridge).exists()  # or it is made yet, by an engine
            for mac in link.stations_using(address, bridge)
            if mac != own_mac
        )
        return protocol.AddressesFound(taken=taken)

    def _check_paths(self, request: protocol.CheckPaths) -> Answer:
        shared = request.probe is not None and _holds(Path(request.probe.path), request.probe.token)
        taken = () if shared else tuple(path for path in request.own if _is_taken(Path(path), Path(request.own[0])))
        missing = tuple(path for path in request.required if not Path(path).exists())
        return protocol.PathsFound(missing=missing, taken=taken, shared=shared)

    def _examine(self, request: protocol.Examine) -> Answer:
        self._arrival = self._runtime.arrival(self._container_id, request.description, self._undo)
        layers = self._arrival.layers_there()
        objections = tuple(map(harmless, self._arrival.objections()))
        return protocol.Examined(objections=objections, layers=None if layers is None else tuple(layers))

    def _await_image(self, request: protocol.AwaitImage) -> Answer:
        self._image_directory = INCOMING_IMAGES / request.key
        private_directory(self._image_directory)
        return protocol.ImageAwaited(directory=str(self._image_directory))

    def _load_image(self, _: protocol.LoadImage) -> Answer:
        self._arrival.load_image(self._image_directory)
        shutil.rmtree(self._image_directory)  # not before: after a failure it goes on from there
        return protocol.Done()

    def _prepare(self, request: protocol.Prepare) -> Answer:
        self._prepared = Received(self._id, request, self._limits.batch_s, self._tidy)
        self._received.trees = self._arrival.prepare(bytes(request.payload), shared=request.shared)
        self._network = Attachment(request.network, self._undo, self._tidy, self._log)
        return protocol.Prepared(trees={name: str(root) for name, root in self._received.trees.items()})

    def _output(self, request: protocol.Output) -> Answer:
        self._arrival.take_output(bytes(request.payload))
        return protocol.Done()

    def _arm(self, request: protocol.Arm) -> Answer:
        received = self._received
        edits = Edits(
            nftables=request.nftables,
            one_cgroup=request.one_cgroup,
            external_mounts=received.tmpfs.external_mounts(),
        )
        self._role = RestoreRole(edits, received.images)
        env = install_shim(received.directory)
        self._tidy.enter_context(Interposer(rpc_socket(received.directory), self._role))
        self._undo.callback(self._drop_restored)
        with silenced(request.macs, self._id):
            self._restore = self._arrival.start_restore(received.directory, received.images, env)
            threading.Thread(target=self._watch_runtime, args=(self._restore,), daemon=True).start()
            try:
                self._role.request_gate.wait_reached(self._limits.arm_s)
            except ConversationLost as error:
                raise self._why(error, "arming the restore") from error
            if request.macs:
                self._network.adopt(self._role.network_namespace)
        received.trees = {**self._role.roots(), **received.trees}
        # What follows is the blackout: no collector pause in it.
        gc.collect()
        gc.freeze()
        gc.disable()
        return protocol.Armed(trees={name: str(root) for name, root in received.trees.items()})

    def _freezing(self, _: protocol.Freezing) -> Answer:
        self._awake.enter_context(wakeful())
        return protocol.Done()

    def _restore_and_hold(self, request: protocol.Restore) -> Answer:
        received = time.monotonic_ns()
        if lazy := self._received.complete(request):
            self._role.lazy = True
            self._pager = Pager(self._received.images, self._received.store, lazy)
            self._undo.callback(self._pager.stop)
        released = time.monotonic_ns()
        self._role.request_gate.open()
        # Beside the restore, which waits for CRIU most of the time.
        digests, pages = self._received.prove(request.proof_seed)
        proved = time.monotonic_ns()
        try:
            self._role.done_gate.wait_reached(self._limits.restore_s)
        except ConversationLost as error:
            raise self._why(error, "restore") from error
        self.holds_container = True
        if self._pager is not None:
            self._pager.warm()
        return protocol.Held(
            stamps=(
                Stamp("images complete", received),
                Stamp("restore released", released),
                Stamp("held", time.monotonic_ns()),
            ),
            pages=pages,
            proof_us=(proved - released) // 1000,
            payload=digests,
        )

    def _go(self, request: protocol.Go) -> Answer:
        with self._noted("frames that came in the freeze were lost"):
            data = memoryview(request.payload)
            for index, size in request.frames:
                self._network.bring(index, data[:size])
                data = data[size:]
        return self.go()

    # --- the two ends of a held restore; also reached from the control socket -----------------------

    def go(self) -> protocol.Resumed:
        """Resume the held container and make it reachable. From here on nothing is ever undone.

        What is not CRIU's or the runtime's word that it runs may fail without keeping it from that.
        """
        go_ns = time.monotonic_ns()
        self._undo.pop_all()
        self._role.at["network-unlock"] = self._take_frames
        self._role.done_gate.open()
        self.holds_container, self._resumed = False, True
        with self._noted("its links"):
            self._network.connect()  # while CRIU unlocks the network, which takes longer
        self._role.wait_resumed(self._limits.resume_s)
        resumed_ns = time.monotonic_ns()
        with self._noted("its network"):
            self._network.give_frames()
            self._network.announce()
        self._awake.close()
        self._wait_runtime(self._limits.resume_s)
        with self._noted("its engine"):
            self._arrival.settle()
        stamps = tuple(Stamp(stamp.name, stamp.at_ns) for stamp in self._role.stamps)
        return protocol.Resumed(go_ns=go_ns, resumed_ns=resumed_ns, stamps=stamps)

    def _take_frames(self) -> None:
        with self._noted("its network"):
            self._network.take_frames()

    @contextlib.contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        """Go on after a failure, which is told: the container runs here, or is about to."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  (a container that lacks this is better than none)
            self._log(f"{what}: {error or type(error).__name__}")

    def abort(self) -> None:
        """Drop the held container and everything made for it."""
        self.holds_container = False
        try:
            self._undo.close()
        finally:
            self._tidy.close()

    def describe(self) -> str:
        return f"container {self._container_id!r} is held here, restored but not running"

    def _abort(self, _: protocol.Abort) -> Answer:
        self.abort()
        return protocol.Done()

    def _finish(self, _: protocol.Finish) -> Answer:
        if self._pager is None:
            self._tidy.close()
            return protocol.Finished(stamps=(), filled_bytes=0, waits=Waits(0, 0, 0, 0))
        # Not before: what the container needs for its first answers comes first, and by itself.
        self._pager.fill()
        self._pager.wait(self._limits.fill_s)
        self._tidy.close()
        served = self._pager.served
        return protocol.Finished(
            stamps=(Stamp("memory in place", served.finished_ns),),
            filled_bytes=served.copied_bytes,
            waits=Waits(*served.waits_us()),
        )

    def close(self) -> None:
        """The channel ended: what was not committed is undone, what was is finished."""
        try:
            if self._resumed and self._pager is not None:
                self._pager.fill()
                self._pager.wait(self._limits.fill_s)
        finally:
            self.abort()

    # --- parts ---------------------------------------------------------------------------------------

    def _watch_runtime(self, restore: subprocess.Popen[bytes]) -> None:
        status = restore.wait()
        self._role.lose(f"{self._runtime.name} restore ended with status {status}")

    def _wait_runtime(self, timeout_s: float) -> None:
        if self._restore is not None:
            try:
                status = self._restore.wait(timeout_s)
            except subprocess.TimeoutExpired as error:
                raise ConversationLost(f"{self._runtime.name} did not end {timeout_s:g} s after the resume") from error
            if status != 0:
                raise ConversationLost(f"{self._runtime.name} restore ended with status {status}")

    def _drop_restored(self) -> None:
        """Let CRIU kill what it restored and the runtime clean up; then make sure of it."""
        self._role.refuse()
        if self._restore is not None:
            try:
                self._restore.wait(self._limits.resume_s)
            except subprocess.TimeoutExpired:
                self._log(f"{self._runtime.name} restore did not end in {self._limits.resume_s:g} s and was killed")
                self._restore.kill()
                self._restore.wait()
        self._runtime.delete(self._container_id)

    def _why(self, error: ConversationLost, stage: str) -> CheckpointError:
        """CRIU's and the runtime's own words are better than ours."""
        images = self._received.images
        errors = criu_log.errors(images / "restore.log") or criu_log.runtime_errors(images / "runtime.log")
        errors = errors or criu_log.last_words(images / "engine.log")
        return CriuFailed(stage, errors) if errors else error


def _holds(probe: Path, token: str) -> bool:
    """Whether a file is there and is the source's."""
    return probe.is_file() and probe.read_text() == token


def _is_taken(path: Path, bundle: Path) -> bool:
    """Whether something is there that no earlier move left behind."""
    return path.exists() and any(path.iterdir()) and not (bundle / MARKER).exists()

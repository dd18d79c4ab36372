"""The engine of both hosts, whose containers are processes of warm.py.

The engine writes all that it does into the journal. `UNDONE_BY` in model.py names the step that
undoes each step in a roll-back.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

from checkpoint.criu.shim_install import rpc_socket
from checkpoint.engines.base import ROOTFS, Container, Tree
from checkpoint.errors import ContainerNotFound, ImageError
from checkpoint.undo import Made, Undo
from tests.unit.story.processes import Child, Host

NAME = "box"


@dataclass(kw_only=True)
class World:
    """Both hosts of one migration, and what is to go wrong on them.

    `faults` is {"host step": function}, called before that step. `process_faults` is {host: fault},
    which the runtime and CRIU of warm.py get. With `undying` the frozen init survives SIGKILL.
    """

    directory: Path
    source: Host
    target: Host
    init: Child
    faults: dict[str, Callable[[], None]] = field(default_factory=dict)
    process_faults: dict[str, dict[str, Any]] = field(default_factory=dict)
    undying: bool = False
    children: list[Child] = field(default_factory=list)
    #: The names of containers that the target's engine knows.
    taken_in: set[str] = field(default_factory=set)

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    @property
    def root(self) -> Path:
        return self.directory / "root"

    def lines(self) -> list[dict[str, Any]]:
        """Return the journal so far."""
        return (
            [json.loads(line) for line in self.journal.read_text().splitlines()]
            if self.journal.exists()
            else []
        )

    def events(self, host: str) -> list[str]:
        """Return the events of a host, in their order."""
        return [line["event"] for line in self.lines() if line["host"] == host and line["event"]]

    def criu(self, host: str) -> int:
        """Return the pid of the CRIU that runs on a host."""
        return next(
            int(line["criu"]) for line in self.lines() if line["host"] == host and "criu" in line
        )

    def end_processes(self) -> None:
        """Kill every CRIU and runtime that still runs."""
        for child in self.children:
            child.kill()
        for line in self.lines():
            if "criu" in line:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(line["criu"], signal.SIGKILL)

    def here(self) -> Host:
        """Return the host whose code runs in this thread."""
        return self.target if self.target.is_here() else self.source

    def note(self, event: str) -> None:
        """Add an event of this thread's host to the journal."""
        line = json.dumps({"host": self.here().name, "event": event}) + "\n"
        fd = os.open(self.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, line.encode())
        os.close(fd)

    def point(self, name: str) -> None:
        """Let a step go wrong, if it is to."""
        if (happen := self.faults.get(f"{self.here().name} {name}")) is not None:
            happen()

    def does(self, name: str) -> None:
        """Let a step go wrong if it is to, and otherwise write it into the journal."""
        self.point(name)
        self.note(name)

    def start(
        self, asks: str, images: Path, env: Mapping[str, str], **spec: Any
    ) -> subprocess.Popen[bytes]:
        """Start a runtime that takes the `criu` that comes first on its PATH."""
        host = self.here()
        child = host.make(
            "runtime",
            host=host.name,
            asks=asks,
            journal=str(self.journal),
            images=str(images),
            root=str(self.root),
            rpc_socket=str(rpc_socket(Path(env["PATH"].partition(":")[0]).parent)),
            fault=self.process_faults.get(host.name),
            **spec,
        )
        self.children.append(child)
        return cast("subprocess.Popen[bytes]", child)


class Remaining(Made):
    """What the source has of the container once the target runs it."""

    world: ClassVar[World]

    def __str__(self) -> str:
        return "the container"

    def remove(self) -> None:
        self.world.does("remove migrated")


class Engine:
    """The engine of the host on which the object is made."""

    name = "runc"

    def __init__(self, world: World) -> None:
        self._world, self._host = world, world.here()

    # --- the source's engine ------------------------------------------------------------------

    def inspect(self, name: str) -> Container:
        self._world.point("inspect")
        if name != NAME:
            raise ContainerNotFound(f"no {name!r} here")
        world = self._world
        return Container(
            id=NAME,
            name=NAME,
            pid=world.init.pid,
            bundle=world.directory,
            rootfs=world.root,
            config={"mounts": [], "linux": {}},
            resources={},
            descriptors=(),
            trees=(Tree(destination=ROOTFS, root=world.root),),
            network_namespace=None,
        )

    def exists(self, name: str) -> bool:
        return self._host is self._world.source or name in self._world.taken_in

    def describe(self, container: Container) -> dict[str, Any]:
        self._world.point("describe")
        return {}

    def layers(self, container: Container) -> list[str]:
        return []

    def pack(self, container: Container, directory: Path) -> bytes:
        self._world.point("pack")
        return b"packed"

    def export_image(self, container: Container, there: frozenset[str], directory: Path) -> None:
        raise NotImplementedError

    def checkpoint(
        self, container: Container, images: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        self._world.does("checkpoint")
        return self._world.start(
            "DUMP", images, env, pid=container.pid, undying=self._world.undying
        )

    def suspend_restart_policy(self, container: Container, undo: Undo) -> None:
        self._world.does("suspend restart policy")
        undo.callback(self._world.does, "no longer held back")

    def pause_monitor(self, container: Container, undo: Undo) -> None:
        self._world.does("pause monitor")
        undo.callback(self._world.does, "monitor goes on")

    def end_monitor(self, container: Container) -> None:
        self._world.does("end monitor")

    def record_ended(self, container: Container) -> None:
        return

    def remaining(self, container: Container, *, shared: bool) -> list[Made]:
        Remaining.world = self._world
        return [Remaining()]

    # --- the target's engine ------------------------------------------------------------------

    def arrival(self, name: str, description: Mapping[str, Any], undo: Undo) -> Arriving:
        self._world.point("arrival")
        return Arriving(self._world, name, undo)


class Arriving:
    """The arrival of a container in the target's engine (checkpoint/engines/base.py)."""

    keeps_files = True

    def __init__(self, world: World, name: str, undo: Undo) -> None:
        self._world, self._name, self._undo = world, name, undo

    def objections(self) -> list[str]:
        self._world.point("objections")
        return []

    def volumes(self) -> list[str]:
        return []

    def layers_there(self) -> list[str] | None:
        return None

    def load_image(self, directory: Path) -> None:
        self._world.point("load image")

    def prepare(self, packed: bytes, *, shared: bool) -> dict[str, Path]:
        if packed != b"packed":
            raise ImageError("the source's engine packed something else")
        self._world.does("prepare")
        self._undo.callback(self._world.does, "unprepare")
        return {ROOTFS: self._world.directory / "target"} if not shared else {}

    def take_output(self, lines: bytes) -> None:
        self._world.point("take output")

    def start_restore(
        self, directory: Path, images: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        self._world.does("start restore")
        self._world.taken_in.add(self._name)
        return self._world.start("RESTORE", images, env)

    def restore_held(self) -> None:
        self._world.point("restore held")
        self._undo.callback(self._delete)

    def _delete(self) -> None:
        self._world.does("delete")
        self._world.taken_in.discard(self._name)

    def check_held(self) -> None:
        self._world.point("check held")

    def handover(self) -> tuple[None, list[int]]:
        return None, []

    def settle(self) -> None:
        self._world.does("settle")

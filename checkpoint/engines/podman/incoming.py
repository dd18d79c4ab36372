"""The arrival of a container in podman, by `podman container restore --import`.

The imported archive has neither memory nor files (podman.without_contents): both reach the target
by other ways.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from checkpoint import schema
from checkpoint.bounded import ContainerName
from checkpoint.engines import layers, restart_policy, shape
from checkpoint.engines.base import MOST_OUTPUT_BYTES
from checkpoint.engines.belongings import VOLUME, Belongings, start_logged
from checkpoint.engines.made import MadeContainer
from checkpoint.engines.oci.crun import Crun
from checkpoint.engines.oci.runc import Runc
from checkpoint.engines.oci.runtime import DUMP_OPTIONS, OciRuntime
from checkpoint.engines.podman import store
from checkpoint.engines.restart_policy import RESTART_POLICY
from checkpoint.engines.shape import Each, Maybe, Shape
from checkpoint.errors import NameInUse
from checkpoint.host import cgroups
from checkpoint.host.run import find_program
from checkpoint.undo import Undo

#: The entry of a checkpoint archive that is the container's log.
LOG = "ctr.log"
#: The OCI runtimes beneath podman whose containers can migrate, by the name of their program.
BENEATH: dict[str, Callable[[], OciRuntime]] = {"crun": Crun, "runc": Runc}

#: What IncomingPodmanContainer reads of what Podman.describe returns.
DESCRIPTION: Shape = {
    "id": str,
    "runtime": str,
    "cgroup": str,
    "restart": RESTART_POLICY,
    "log": Maybe(str),
    "image": {"id": str, "name": str, "layers": [str]},
    "volumes": Each(VOLUME),
    "networks": Each(store.NETWORK),
}


class IncomingPodmanContainer:
    """An IncomingContainer. `description` is what Podman.describe returned on the source."""

    keeps_files = False  # podman makes the container when it restores it

    def __init__(self, name: str, description: Mapping[str, Any], undo: Undo) -> None:
        shape.check(description, DESCRIPTION, "what the source told of the container")
        schema.read(ContainerName, description["id"])
        self._name, self._wanted, self._undo = name, description, undo
        self._cgroups = cgroups.Hierarchies(description["cgroup"])
        self._belongings = Belongings(
            "podman", store, description["networks"], description["volumes"]
        )
        self._archive = b""
        self._started = False
        self._output = bytearray()
        #: The log of the restored container, unless the source's engine keeps none in a file. The
        #: path on the source says nothing: podman gives a container that it imports a new path.
        self._log: Path | None = None

    def objections(self) -> list[str]:
        return list(self._objections())

    def volumes(self) -> list[str]:
        return self._belongings.volumes()

    def layers_there(self) -> list[str] | None:
        image = self._wanted["image"]
        if store.image(image["id"]) is not None:
            return None
        return layers.common(image["layers"], store.layers_of_all_images())

    def load_image(self, directory: Path) -> None:
        store.load_image(directory, self._wanted["image"]["id"], self._wanted["image"]["name"])

    def prepare(self, packed: bytes, *, shared: bool) -> dict[str, Path]:
        self._archive = packed
        if self._wanted.get("log"):
            self._log = store.log_of(self._wanted["id"])
        return self._belongings.make(self._undo)

    def take_output(self, lines: bytes) -> None:
        """Keep lines for the archive, of many the last MOST_OUTPUT_BYTES; append later ones.

        Lines that come when podman restores are appended to the log that podman has made of the
        archive's. They are ignored when podman has made none.
        """
        if not self._started:
            self._output += lines
            if (excess := len(self._output) - MOST_OUTPUT_BYTES) > 0:
                cut = self._output.find(b"\n", excess - 1) + 1
                del self._output[: cut or len(self._output)]
        elif self._log is not None:
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
                with open(fd, "ab") as file:
                    file.write(lines)

    def start_restore(
        self, directory: Path, images: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        for name in (self._name, self._wanted["id"]):
            if store.has_container(name):
                raise NameInUse(
                    f"a podman container named {name!r} was started on the target meanwhile"
                )
        self._cgroups.look()
        # podman has no container of this id yet, and uses no id twice: it is this migration's, from
        # the moment on at which podman makes it.
        self._undo.made(MadeContainer(engine="podman", id=self._wanted["id"]))
        restart = self._wanted["restart"]
        restart_policy.give_later("podman", self._wanted["id"], self._name, restart, self._undo)
        archive = directory / "podman.tar"
        archive.write_bytes(with_output(self._archive, bytes(self._output)))
        self._started = True
        argv = [
            "podman",
            "container",
            "restore",
            f"--import={archive}",
            "--ignore-volumes",
            "--ignore-rootfs",
        ]
        return start_logged([*argv, *DUMP_OPTIONS], images, env)

    def restore_held(self) -> None:
        self._undo.made(self._cgroups.made())
        # podman does not know of it if podman is killed now, and its runtime uses no id twice.
        if (runtime := BENEATH.get(self._wanted["runtime"])) is not None:
            with contextlib.suppress(OSError):
                self._undo.made(runtime().made(self._wanted["id"]))

    def check_held(self) -> None:
        return  # the end of the engine's restore is all there is to see

    def handover(self) -> tuple[None, list[int]]:
        return None, []

    def settle(self) -> None:
        """Do nothing: podman has the container since it was restored."""

    def _objections(self) -> Iterator[str]:
        if find_program(runtime := self._wanted["runtime"]) is None:
            yield f"its container is run by {runtime}, which is not there"
        yield from self._belongings.objections()


def with_output(archive: bytes, output: bytes) -> bytes:
    """Return the checkpoint archive with `output` added to it as the container's log.

    podman's own archives carry a log the same way (log drivers k8s-file and json-file). The archive
    is not parsed, because it comes from the other host and podman parses it in any case. That is
    possible because its last entry has no content (podman.without_contents), so that only blocks of
    zeros follow that entry's header (tar(5)).
    """
    blocks = len(archive) // tarfile.BLOCKSIZE
    while blocks and not any(
        archive[(blocks - 1) * tarfile.BLOCKSIZE : blocks * tarfile.BLOCKSIZE]
    ):
        blocks -= 1
    entry = tarfile.TarInfo(LOG)
    entry.size, entry.mode = len(output), 0o640
    padding = bytes(-len(output) % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)
    return archive[: blocks * tarfile.BLOCKSIZE] + entry.tobuf() + output + padding

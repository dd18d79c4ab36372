"""The migration of a container that is a bundle and nothing else (OCI runtime spec, bundle.md).

The target takes such a container in by making the same bundle.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from checkpoint import schema
from checkpoint.engines import shape
from checkpoint.engines.base import MARKER, ROOTFS, Container
from checkpoint.engines.occupied import is_taken
from checkpoint.engines.oci import stdio
from checkpoint.engines.shape import Maybe, Shape
from checkpoint.errors import ImageError, NameInUse
from checkpoint.files.beneath import empty_tree, remove_tree
from checkpoint.host import cgroups, ownership
from checkpoint.host.identity import PathIdentity, remove_empty
from checkpoint.host.ownership import Owned

CONFIG = "config.json"


class Restores(Protocol):
    """An OCI runtime, as far as IncomingBundle needs it (see OciRuntime)."""

    name: str

    def exists(self, container_id: str) -> bool: ...
    def identity(self, container_id: str) -> PathIdentity: ...
    def delete(self, identity: PathIdentity) -> None: ...
    def restore(
        self,
        container_id: str,
        bundle: Path,
        images: Path,
        env: Mapping[str, str],
        stdio: tuple[int, int, int],
    ) -> subprocess.Popen[bytes]: ...


def describe(container: Container) -> dict[str, Any]:
    """Return the description, fit for JSON, from which the target makes the bundle.

    Its config.json has the limits in force now, which the runtime's `update` may have changed.
    Raises OSError.
    """
    config = json.loads(json.dumps(container.config))
    resources = config.setdefault("linux", {}).setdefault("resources", {})
    for section, values in container.resources.items():
        resources.setdefault(section, {}).update(values)
    return {
        "bundle": str(container.bundle),
        "rootfs": str(container.rootfs),
        "config": config,
        "descriptors": list(container.descriptors),
        "owned": ownership.along(container.bundle / CONFIG, container.rootfs),
    }


#: What IncomingBundle reads of what `describe` returns.
DESCRIPTION: Shape = {
    "bundle": str,
    "rootfs": str,
    "descriptors": [str],
    "config": {"root": {"path": str}, "linux": {"cgroupsPath": Maybe(str)}},
    "owned": dict,
}


class IncomingBundle:
    """An IncomingContainer of a container that is a bundle.

    What the container prints on the target goes to a log of this tool's (stdio.py), because it is
    unknown where the output went on the source.
    """

    def __init__(
        self,
        runtime: Restores,
        container_id: str,
        fields: Mapping[str, Any],
        undo: contextlib.ExitStack,
    ) -> None:
        shape.check(fields, DESCRIPTION, "what the source told of the container")
        self._runtime, self._id, self._undo = runtime, container_id, undo
        self._bundle, self._rootfs = Path(fields["bundle"]), Path(fields["rootfs"])
        self._config, self._descriptors = fields["config"], fields["descriptors"]
        self._owned = schema.read(Mapping[str, Owned], fields["owned"])
        self._cgroups = cgroups.Hierarchies(self._config["linux"].get("cgroupsPath") or "")
        self._made: PathIdentity | None = None

    def objections(self) -> list[str]:
        return []

    def volumes(self) -> list[str]:
        return []

    def layers_there(self) -> list[str] | None:
        return None

    def load_image(self, directory: Path) -> None:
        """Do nothing: the container has no container image."""

    def prepare(self, packed: bytes, *, shared: bool) -> dict[str, Path]:
        made = ownership.Maker(self._owned)
        for directory in (self._bundle, self._rootfs):
            if not shared and is_taken(directory, self._bundle):
                raise ImageError(
                    f"{directory} came into being on the target, with other files in it"
                )
            if directory.exists() and not any(directory.iterdir()):
                self._undo.callback(empty_tree, PathIdentity(directory))
            for missing in made.missing(directory):
                made.directory(missing)
                self._undo.callback(
                    remove_tree if missing == directory else remove_empty, PathIdentity(missing)
                )
        config = self._bundle / CONFIG
        if config.exists():
            self._undo.callback(made.file, config, config.read_bytes())
        else:
            self._undo.callback(config.unlink, missing_ok=True)
        if not shared:
            ownership.mark(self._bundle / MARKER)
        made.file(config, json.dumps(self._config).encode())
        return {ROOTFS: self._rootfs}

    def take_output(self, lines: bytes) -> None:
        """Do nothing: the source sends no output, because the container has no known log."""

    def start_restore(
        self, directory: Path, images: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        if self._runtime.exists(self._id):
            raise NameInUse(
                f"a {self._runtime.name} container named {self._id!r} was started"
                " on the target meanwhile"
            )
        self._cgroups.look()
        (images / "descriptors.json").write_text(json.dumps(self._descriptors))
        streams = stdio.rebuild(self._id, self._descriptors)
        try:
            return self._runtime.restore(self._id, self._bundle, images, env, streams)
        finally:
            for fd in streams:
                os.close(fd)

    def restore_held(self) -> None:
        self._made = self._runtime.identity(self._id)
        self._cgroups.claim()

    def discard(self) -> None:
        if self._made is not None:
            self._runtime.delete(self._made)
        self._cgroups.remove_claimed()

    def settle(self) -> None:
        (self._bundle / MARKER).unlink(missing_ok=True)

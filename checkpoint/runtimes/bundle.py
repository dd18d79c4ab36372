"""A container that is a bundle and nothing else (OCI runtime spec, bundle.md): taken in by making the same bundle."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from checkpoint import schema
from checkpoint.host import cgroups, ownership
from checkpoint.host.ownership import Owned
from checkpoint.runtimes import shape, stdio
from checkpoint.runtimes.base import MARKER, ROOTFS, Container
from checkpoint.runtimes.shape import Maybe, Shape

CONFIG = "config.json"


class Restores(Protocol):
    """An OCI runtime."""

    def restore(
        self, container_id: str, bundle: Path, images: Path, env: Mapping[str, str], stdio: tuple[int, int, int]
    ) -> subprocess.Popen[bytes]: ...


def describe(container: Container) -> dict[str, Any]:
    """The bundle, its config.json with the limits in force now, which `update` may have changed."""
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


#: What `describe` tells, and is needed of it.
DESCRIPTION: Shape = {
    "bundle": str,
    "rootfs": str,
    "descriptors": [str],
    "config": {"root": {"path": str}, "linux": {"cgroupsPath": Maybe(str)}},
    "owned": dict,
}


class BundleArrival:
    """Arrival of such a container. What it prints goes to a log of ours: where it went on the source is unknown."""

    def __init__(
        self, runtime: Restores, container_id: str, fields: Mapping[str, Any], undo: contextlib.ExitStack
    ) -> None:
        shape.check(fields, DESCRIPTION, "what the source told of the container")
        self._runtime, self._id, self._undo = runtime, container_id, undo
        self._bundle, self._rootfs = Path(fields["bundle"]), Path(fields["rootfs"])
        self._config, self._descriptors = fields["config"], fields["descriptors"]
        self._owned = schema.read(Mapping[str, Owned], fields["owned"])

    def objections(self) -> list[str]:
        return []

    def layers_there(self) -> list[str] | None:
        return None

    def load_image(self, directory: Path) -> None:
        """Nothing comes: it has none."""

    def prepare(self, packed: bytes, *, shared: bool) -> dict[str, Path]:
        made = ownership.Maker(self._owned)
        for directory in (self._bundle, self._rootfs):
            for missing in made.missing(directory):
                if missing == directory:
                    self._undo.callback(shutil.rmtree, missing, ignore_errors=True)
                else:
                    self._undo.callback(_remove_if_empty, missing)
                made.directory(missing)
        if not shared:
            ownership.mark(self._bundle / MARKER)
        # crun leaves its cgroup behind when a restore fails, and cannot use it then the next time.
        self._undo.callback(cgroups.remove_empty, self._config["linux"].get("cgroupsPath", ""))
        made.file(self._bundle / CONFIG, json.dumps(self._config).encode())
        return {ROOTFS: self._rootfs}

    def take_output(self, lines: bytes) -> None:
        """Nothing comes: nobody knows where it was logged."""

    def start_restore(self, directory: Path, images: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        (images / "descriptors.json").write_text(json.dumps(self._descriptors))
        streams = stdio.rebuild(self._id, self._descriptors)
        try:
            return self._runtime.restore(self._id, self._bundle, images, env, streams)
        finally:
            for fd in streams:
                os.close(fd)

    def settle(self) -> None:
        (self._bundle / MARKER).unlink(missing_ok=True)


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()

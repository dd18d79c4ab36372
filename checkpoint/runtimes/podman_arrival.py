"""A container on its way into podman: by `podman container restore --import` of an archive without memory and files."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from checkpoint.host import cgroups
from checkpoint.host.run import find_program, start
from checkpoint.runtimes import layers, left_behind, podman_store
from checkpoint.runtimes.oci import DUMP_OPTIONS

#: The container's log in a checkpoint archive.
LOG = "ctr.log"


class PodmanArrival:
    """Arrival. `description` is from Podman.describe."""

    def __init__(self, description: Mapping[str, Any], undo: contextlib.ExitStack) -> None:
        self._wanted, self._undo = description, undo
        self._started = False
        self._output = bytearray()

    def objections(self) -> list[str]:
        return list(self._objections())

    def layers_there(self) -> list[str] | None:
        image = self._wanted["image"]
        if podman_store.image(image["id"]) is not None:
            return None
        return layers.common(image["layers"], podman_store.layers_of_all_images())

    def load_image(self, directory: Path) -> None:
        podman_store.load_image(directory, self._wanted["image"]["id"], self._wanted["image"]["name"])

    def prepare(self, packed: bytes, *, shared: bool) -> dict[str, Path]:
        self._archive = packed
        self._undo.callback(cgroups.remove_empty, self._wanted["cgroup"])  # crun leaves it when a restore fails
        for name, network in self._wanted["networks"].items():
            if podman_store.network(name) is None:
                podman_store.create_network(network)
                self._undo.callback(podman_store.remove_network, name)
        return {at: self._volume(volume) for at, volume in self._wanted["volumes"].items()}

    def take_output(self, lines: bytes) -> None:
        if not self._started:
            self._output += lines
        elif log := self._wanted["log"]:
            with open(log, "ab") as file:
                file.write(lines)

    def start_restore(self, directory: Path, images: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        archive = directory / "podman.tar"
        archive.write_bytes(with_output(self._archive, bytes(self._output)))
        self._started = True
        argv = ["podman", "container", "restore", f"--import={archive}", "--ignore-volumes", "--ignore-rootfs"]
        output = os.open(images / "engine.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return start([*argv, *DUMP_OPTIONS], env=env, stderr=output)
        finally:
            os.close(output)

    def settle(self) -> None:
        for volume in self._wanted["volumes"].values():
            left_behind.forget("podman", volume["Name"])

    def _objections(self) -> Iterator[str]:
        if find_program(runtime := self._wanted["runtime"]) is None:
            yield f"its container is run by {runtime}, which is not there"
        for name, network in self._wanted["networks"].items():
            there = podman_store.network(name)
            if there is not None and (what := podman_store.difference(network, there)):
                yield f"podman's network {name!r} is another one there: its {what} is {there.get(what)!r}"
        for volume in self._wanted["volumes"].values():
            name = volume["Name"]
            if podman_store.volume(name) is None:
                continue
            if podman_store.is_used(name):
                yield f"podman's volume {name!r} is used there by another container"
            elif not left_behind.is_noted("podman", name):
                yield f"podman's volume {name!r} is there already, and no move has left it"

    def _volume(self, wanted: Mapping[str, Any]) -> Path:
        there = podman_store.volume(wanted["Name"])
        if there is not None:
            return Path(there["Mountpoint"])
        self._undo.callback(podman_store.remove_volume, wanted["Name"])
        return podman_store.create_volume(wanted)


def with_output(archive: bytes, output: bytes) -> bytes:
    """A checkpoint archive with the container's log in it, as podman itself takes it along (k8s-file and json-file)."""
    written = io.BytesIO(archive)
    with tarfile.open(fileobj=written, mode="a") as tar:
        entry = tarfile.TarInfo(LOG)
        entry.size, entry.mode = len(output), 0o640
        tar.addfile(entry, io.BytesIO(output))
    return written.getvalue()

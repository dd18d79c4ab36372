"""Programs that stand for runc and crun, and a bundle that they have as a running container."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ID = "1f2e"
#: Writes down its words, and tells the state that is in ROOT/ID/told for `state`.
PROGRAM = """#!/bin/sh
printf '%s\\n' "$*" >> {log}
root=$2; shift 2
case "$1" in
    state) cat "$root/$2/told" 2> /dev/null || {{ echo "no such container" >&2; exit 1; }} ;;
    delete) rm -r "$root/$3" ;;
    checkpoint|--log) echo "it has no CRIU" >&2; exit {status} ;;
esac
"""


class Runtime:
    """A runtime on PATH that has its state in `root`."""

    def __init__(self, directory: Path, name: str, root: Path, status: int = 0) -> None:
        self.root, self._log = root, directory / f"{name}.log"
        program = directory / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(PROGRAM.format(log=self._log, status=status))
        program.chmod(0o755)
        self.bundle = directory / "bundle"

    def asked(self) -> list[list[str]]:
        """Return the words of each call, without --root."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line.split()[2:] for line in lines]

    def has(
        self,
        state_file: str,
        internal: dict[str, Any],
        *,
        state: dict[str, Any] | None = None,
        mounts: Sequence[dict[str, Any]] = (),
        namespaces: Sequence[dict[str, str]] = (),
    ) -> None:
        """Let the runtime have a container ID, which runs unless `state` says something else."""
        linux = {"namespaces": list(namespaces), "resources": {"pids": {"limit": 7}}}
        config = {"root": {"path": "rootfs"}, "mounts": list(mounts), "linux": linux}
        (self.bundle / "rootfs").mkdir(parents=True, exist_ok=True)
        (self.bundle / "config.json").write_text(json.dumps(config))
        directory = self.root / ID
        directory.mkdir(parents=True, exist_ok=True)
        (directory / state_file).write_text(json.dumps(internal))
        told = {"status": "running", "pid": 4242, "bundle": str(self.bundle), **(state or {})}
        (directory / "told").write_text(json.dumps(told))

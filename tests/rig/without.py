"""Hosts that lack something, or have something broken in its place, for a while."""

from __future__ import annotations

from tests.rig.node import Node

#: A CRIU with which every restore fails, since it may open too few files.
CRIU = "/usr/sbin/criu"
BROKEN_CRIU = """#!/bin/sh
[ "$1" = swrk ] && ulimit -n 14
exec /usr/sbin/criu.kept "$@"
"""


class Without:
    """A node on which a path is missing during a `with` block, or is a script instead.

    The script finds what is usually there at PATH.kept.
    """

    def __init__(self, node: Node, path: str, script: str | None = None) -> None:
        self._node, self._path, self._script = node, path, script

    def __enter__(self) -> None:
        """Move the path aside, and put the script there if there is one."""
        self._node.run(["mv", self._path, f"{self._path}.kept"])
        if self._script is not None:
            write = f"cat > {self._path} && chmod 755 {self._path}"
            self._node.run(["sh", "-c", write], input=self._script)

    def __exit__(self, *_: object) -> None:
        """Put back what was there."""
        self._node.run(["mv", f"{self._path}.kept", self._path])

"""Copy a tree with rsync(1): once while the container runs, and what changed since while it is frozen."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from checkpoint.errors import CommandFailed
from checkpoint.host.run import start
from checkpoint.rootfs.rsh import SOCKET_VARIABLE

#: Everything a file is: hard links, ACLs, xattrs, holes, owners by number; one file system.
PRESERVE = ("--archive", "--hard-links", "--acls", "--xattrs", "--sparse", "--numeric-ids", "--one-file-system")
#: rsync ends with 24 when files vanished while it copied a live tree. The second pass knows.
VANISHED = 24
#: Stands for the target in rsync's argv; our remote shell knows where to go.
PEER = "target"


class Rsync:
    """One rsync process. Its remote end is reached through `rsh` (see rsh.py) and `socket_path`."""

    def __init__(self, root: Path, destination: Path, options: Iterable[str], rsh: Path, socket_path: Path) -> None:
        # A trailing slash: the content of root, not root itself.
        self._argv = [
            "rsync",
            *PRESERVE,
            *options,
            "--stats",
            "--rsh",
            str(rsh),
            f"{root}/",
            f"{PEER}:{destination}/",
        ]
        env = {**os.environ, SOCKET_VARIABLE: str(socket_path)}
        self._process = start(
            self._argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    @classmethod
    def whole(cls, root: Path, destination: Path, rsh: Path, socket_path: Path) -> Rsync:
        """Make `destination` equal to `root`, deleting there what is not here."""
        return cls(root, destination, ("--delete",), rsh, socket_path)

    @classmethod
    def armed(cls, root: Path, destination: Path, rsh: Path, socket_path: Path) -> Rsync:
        """Start both ends now; they wait for the list that `send_list` gives them.

        --ignore-times: we know what changed; size and mtime may well be equal.
        """
        options = ("--ignore-times", "--files-from=-", "--from0", "--no-implied-dirs")
        return cls(root, destination, options, rsh, socket_path)

    def send_list(self, paths: Iterable[str]) -> None:
        """Name the files to copy, relative to the root; the list ends with this call."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"".join(os.fsencode(path) + b"\0" for path in paths))
        self._process.stdin.close()
        self._process.stdin = None

    def finish(self, timeout_s: float) -> int:
        """Wait for the end; return the bytes sent. Raises CommandFailed."""
        try:
            output, errors = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise CommandFailed(self._argv, 124, f"no end after {timeout_s:g} s") from error
        if self._process.returncode not in (0, VANISHED):
            raise CommandFailed(self._argv, self._process.returncode, errors.decode(errors="replace"))
        return _sent_bytes(output.decode(errors="replace"))

    def kill(self) -> None:
        """End it, whatever it was doing. Harmless after `finish`."""
        self._process.kill()
        self._process.communicate()


def _sent_bytes(stats: str) -> int:
    for line in stats.splitlines():
        name, _, value = line.partition(":")
        if name == "Total bytes sent":
            return int(value.replace(",", "").replace(".", ""))
    return 0

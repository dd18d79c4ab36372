"""Copy a tree with rsync(1): once while the container runs, and what changed since while it is frozen."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from checkpoint.errors import CommandFailed
from checkpoint.host.run import start
from checkpoint.rootfs.rsh import SOCKET_VARIABLE

#: Everything a file is: hard links, ACLs, xattrs, holes, owners by number; one file system.
PRESERVE = ("--archive", "--hard-links", "--acls", "--xattrs", "--sparse", "--numeric-ids", "--one-file-system")
#: Names come on standard input; a file that has vanished since it was named is none of the errors.
LISTED = ("--files-from=-", "--from0", "--ignore-missing-args")
#: rsync ends with 24 when files vanished while it copied a live tree. The second pass knows.
VANISHED = 24
#: Stands for the target in rsync's argv; our remote shell knows where to go.
PEER = "target"


class Rsync:
    """rsync to the target. Its remote end is reached through `rsh` (see rsh.py) and `socket_path`."""

    def __init__(self, rsh: Path, socket_path: Path) -> None:
        self._rsh, self._socket_path = rsh, socket_path

    def whole(self, root: Path, destination: Path) -> Running:
        """Make `destination` equal to `root`, deleting there what is not here."""
        return self._start(root, destination, "--delete")

    def listed(self, root: Path, destination: Path) -> Running:
        """Start both ends now; they wait for the list that `send_list` gives them.

        --ignore-times: we know what changed; size and mtime may well be equal.
        """
        return self._start(root, destination, "--ignore-times", *LISTED, "--no-implied-dirs")

    def resumed(self, root: Path, destination: Path) -> Running:
        """Likewise, for large files that never change: what is there already of one is not sent again."""
        return self._start(root, destination, "--partial", "--append-verify", *LISTED)

    def _start(self, root: Path, destination: Path, *options: str) -> Running:
        # A trailing slash: the content of root, not root itself.
        argv = ["rsync", *PRESERVE, *options, "--stats", "--rsh", str(self._rsh), f"{root}/", f"{PEER}:{destination}/"]
        return Running(argv, {**os.environ, SOCKET_VARIABLE: str(self._socket_path)})


class Running:
    """One rsync process."""

    def __init__(self, argv: list[str], env: Mapping[str, str]) -> None:
        self._argv = argv
        self._process = start(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

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
    """What --stats told; 0 where that is not to be found. The remote end may write between the lines."""
    found = re.findall(r"^Total bytes sent: ([0-9.,]{1,24})$", stats, re.MULTILINE)
    return int(re.sub(r"[.,]", "", found[-1]) or 0) if found else 0

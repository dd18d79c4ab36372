"""Copy a tree with rsync(1): once while the container runs, and what changed since while it is frozen.

rsync runs in an enclosure on both hosts. On the source it is the client. Its remote shell (`--rsh`) is in the enclosure
with it and can go nowhere: it hands rsync's standard streams to the caller through two pipes (REMOTE_SHELL).
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from checkpoint.errors import CommandFailed, ReceiverFailed
from checkpoint.rootfs.enclosure import TREE, start_enclosed

#: Everything a file is: hard links, ACLs, xattrs, holes, owners by number; one file system.
PRESERVE = (
    "--archive",
    "--hard-links",
    "--acls",
    "--xattrs",
    "--sparse",
    "--numeric-ids",
    "--one-file-system",
)
#: Names come on standard input; a file that has vanished since it was named is none of the errors.
LISTED = ("--files-from=-", "--from0", "--ignore-missing-args")
#: rsync ends with 24 when files vanished while it copied a live tree. The second pass knows.
VANISHED = 24
SUCCESS = (0, VANISHED)
#: rsync ends with 23 when it could not copy a file: for good, or because directories were exchanged under it.
PARTIAL = 23
#: Of most that goes wrong rsync says which of its processes it was, at the start of a line: a file's name has none.
WHICH_PROCESS = re.compile(r"^rsync: \[(\w+)\] ", re.MULTILINE)
RECEIVING = ("receiver", "generator")
#: How the lines begin that say no more than rsync's status does.
SUMMARY = "rsync error: "
#: How rsync asks for its other end: rsync --server OPTION... . DIRECTORY
SERVER = ("rsync", "--server")
#: Writes rsync's words for the other end, and then what rsync says, to descriptor 4; what descriptor 3 brings goes to
#: rsync. It must end once nothing more comes, or rsync waits for it; and when rsync has ended, nobody else may hold
#: descriptor 4. (A shell gives what it runs beside itself no standard input unless told.)
REMOTE_SHELL = 'echo "$*" >&4; exec 5<&0; cat <&5 >&4 & exec 4>&- 5<&-; cat <&3; kill $!'
MAX_WORDS_BYTES = 4096

#: Carries what rsync says (from the first descriptor) to its other end, which is to be started with these words, and
#: the answers to the second descriptor, until the other end has ended; then closes both descriptors. The function is
#: called when the first answer has been carried. Returns how the other end ended.
Carry = Callable[[Sequence[str], int, int, Callable[[], None]], "Ending"]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The status with which rsync's other end ended, and what it wrote to its standard error."""

    status: int
    complaint: str


class Rsync:
    """rsync of one tree to the target. `tree` is a descriptor of the tree's root; `carry` reaches the other end."""

    def __init__(self, tree: int, carry: Carry) -> None:
        self._tree, self._carry = tree, carry

    def whole(self) -> Running:
        """Make the target's tree equal to the source's, deleting what is not in the source's."""
        return self._start("--delete")

    def listed(self) -> Running:
        """Start both ends now; they wait for the list that `send_list` gives them.

        --ignore-times: we know what changed; size and mtime may well be equal.
        """
        return self._start("--ignore-times", *LISTED, "--no-implied-dirs")

    def resumed(self) -> Running:
        """Likewise, for large files that never change: what the target has of one already is not sent again."""
        return self._start("--partial", "--append-verify", *LISTED)

    def _start(self, *options: str) -> Running:
        return Running(["rsync", *PRESERVE, *options, "--stats"], self._tree, self._carry)


class Running:
    """One rsync process on the source, and the thread that carries for it."""

    def __init__(self, argv: Sequence[str], tree: int, carry: Carry) -> None:
        shell_reads, to_rsync = os.pipe()
        from_rsync, shell_writes = os.pipe()
        # The host's name is the shell's $0. Trailing slashes: the content of the tree, not the tree.
        self._argv = [*argv, f"--rsh=sh -c '{REMOTE_SHELL}'", f"{TREE}/", f"target:{TREE}/"]
        try:
            self._process = start_enclosed(
                self._argv,
                tree,
                handed=(shell_reads, shell_writes),
                helpers=("sh", "cat"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except CommandFailed:
            os.close(to_rsync)
            os.close(from_rsync)
            raise
        finally:
            os.close(shell_reads)
            os.close(shell_writes)
        self._other: Ending | None = None
        self._answered = threading.Event()
        self._thread = threading.Thread(
            target=self._serve, args=(carry, from_rsync, to_rsync), name="rsync", daemon=True
        )
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until both ends wait for the list, or one has failed, which `finish` tells.

        Their start takes processor time. The other end's first answer is its version of rsync's protocol.
        """
        self._answered.wait(timeout_s)

    def send_list(self, paths: Iterable[str]) -> None:
        """Name the files to copy, relative to the root; the list ends with this call."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"".join(os.fsencode(path) + b"\0" for path in paths))
        self._process.stdin.close()
        self._process.stdin = None

    def finish(self, timeout_s: float) -> int:
        """Wait for the end; return the bytes sent. Raises CommandFailed, or ReceiverFailed.

        Of a file that the other end could not write, rsync knows by the status of its remote shell, which would be
        the other end's. Ours has another one.
        """
        try:
            output, errors = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise CommandFailed(self._argv, 124, f"no end after {timeout_s:g} s") from error
        self._thread.join()
        self._check(errors.decode(errors="replace"))
        return _sent_bytes(output.decode(errors="replace"))

    def _check(self, errors: str) -> None:
        """Raise what either end failed with."""
        other = self._other or Ending(status=0, complaint="")  # it was never asked for one
        failed = [
            status for status in (self._process.returncode, other.status) if status not in SUCCESS
        ]
        if failed:
            lines = (errors + other.complaint).splitlines()
            told = "\n".join([line for line in lines if not line.startswith(SUMMARY)] or lines)
            first = WHICH_PROCESS.search(told)
            there = (
                first[1] in RECEIVING
                if first
                else self._process.returncode in SUCCESS or other.complaint
            )
            raise (ReceiverFailed if there else CommandFailed)(self._argv, failed[0], told)

    def kill(self) -> None:
        """End it, whatever it was doing. Harmless after `finish`."""
        self._process.kill()
        # Not to its last word: its remote shell ends later.
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _serve(self, carry: Carry, from_rsync: int, to_rsync: int) -> None:
        try:
            if words := _words(from_rsync):
                self._other = carry(words, from_rsync, to_rsync, self._answered.set)
            else:
                os.close(to_rsync)
                os.close(from_rsync)
        finally:
            self._answered.set()


def served(words: Sequence[str]) -> list[str]:
    """The command for the target's end of the rsync that asked with these words, on the tree that is enclosed with it.

    Raises ValueError when the words do not ask for the receiving end.
    """
    *options, dot, _ = words
    if tuple(options[: len(SERVER)]) != SERVER or dot != "." or "--sender" in options:
        raise ValueError(f"rsync asks for {' '.join(words)[:200]!r}")
    return [*options, dot, f"{TREE}/"]


def _words(from_rsync: int) -> list[str]:
    """The remote shell's first line; nothing if it ends without one."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(from_rsync, 1)  # short result: one byte, for what follows is rsync's own
        if not byte or len(line) == MAX_WORDS_BYTES:
            return []
        line += byte
    return line.decode(errors="replace").split()


def _sent_bytes(stats: str) -> int:
    """What --stats told; 0 where that is not to be found. The remote end may write between the lines."""
    found = re.findall(r"^Total bytes sent: ([0-9.,]{1,24})$", stats, re.MULTILINE)
    return int(re.sub(r"[.,]", "", found[-1]) or 0) if found else 0

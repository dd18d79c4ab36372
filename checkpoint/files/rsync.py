"""Copies of a tree by rsync(1): whole while the container runs, then passes of what changed since.

rsync runs in an enclosure on both hosts, and is the client on the source. The client's remote shell
(`--rsh`) runs in the same enclosure, so it cannot reach the target itself. Instead, the remote
shell hands rsync's standard streams to the caller through two pipes (REMOTE_SHELL).
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from checkpoint.errors import CommandFailed, ReceiverFailed, reason
from checkpoint.files.enclosure import TREE, start_enclosed
from checkpoint.host.worker import Worker

log = logging.getLogger(__name__)
#: Keep all of a file: hard links, ACLs, xattrs, holes, owners by number. Stay on one file system.
PRESERVE = (
    "--archive",
    "--hard-links",
    "--acls",
    "--xattrs",
    "--sparse",
    "--numeric-ids",
    "--one-file-system",
)
#: Read names from standard input. A file that has vanished since it was named is no error.
LISTED = ("--files-from=-", "--from0", "--ignore-missing-args")
#: rsync ends with 24 when files vanished while it copied a live tree. The next pass notices.
VANISHED = 24
SUCCESS = (0, VANISHED)
#: rsync ends with 23 when it could not copy a file: permanently, or because directories were
#: exchanged during the copy.
PARTIAL = 23
#: rsync ends with 12 when the stream to its other end broke (RERR_STREAMIO, errcode.h). If the
#: other end has a reason of its own, the broken stream is a consequence of that reason.
STREAM_BROKE = 12
#: Most of rsync's error messages name the failed process at the start of a line. A file name cannot
#: imitate that, because rsync escapes the newline in a name.
WHICH_PROCESS = re.compile(r"^rsync: \[(\w+)\] ", re.MULTILINE)
RECEIVING = ("receiver", "generator")
#: The beginning of the lines that say no more than rsync's status does.
SUMMARY = "rsync error: "
#: The beginning of the words with which rsync requests its other end:
#: rsync --server OPTION... . DIRECTORY
SERVER = ("rsync", "--server")
#: The script that is rsync's remote shell. It writes rsync's words for the other end, and then
#: rsync's output, to descriptor 4, and passes rsync what comes from descriptor 3. The script must
#: end when descriptor 3 does, because rsync waits for it. When rsync has ended, no process may
#: still hold descriptor 4 open. (Descriptor 5: a shell gives a background command no standard input
#: unless the command redirects it.)
REMOTE_SHELL = 'echo "$*" >&4; exec 5<&0; cat <&5 >&4 & exec 4>&- 5<&-; cat <&3; kill $!'
MAX_WORDS_BYTES = 4096
#: The status of the other end as long as nobody knows how it ended, which is never a success.
UNKNOWN = 255

#: A function (words, from_rsync, to_rsync, answered) that connects rsync on the source with its
#: other end. It starts the other end with `words`, carries rsync's output from the descriptor
#: `from_rsync` to the other end, and the answers to the descriptor `to_rsync`. It calls `answered`
#: when the first answer has been carried, and may call it again. When the other end has ended, it
#: closes both descriptors and returns how the other end ended.
Carry = Callable[[Sequence[str], int, int, Callable[[], None]], "Ending"]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The status with which rsync's other end ended, and what it wrote to its standard error."""

    status: int
    complaint: str


class Rsync:
    """Passes of rsync that copy one tree to the target.

    `tree` is a descriptor of the tree's root on the source. `carry` connects each pass with rsync
    on the target (Carry). The methods start a pass; they raise CommandFailed if rsync cannot be
    started.
    """

    def __init__(self, tree: int, carry: Carry) -> None:
        self._tree, self._carry = tree, carry

    def whole(self) -> Running:
        """Start a pass that makes the target's tree equal to the source's, deletions included.

        A file is not sent if the target has one of the same size and time of modification, as it
        may have after an earlier migration. Times are compared to the nanosecond.
        """
        return self._start("--delete", "--modify-window=-1")

    def listed(self) -> Running:
        """Start a pass of listed files; both ends wait for the list that `Running.finish` sends.

        --ignore-times, because the caller knows which files changed: size and mtime may be equal.
        The tree's root cannot be in the list: its name, `.`, would stand for everything in it.
        """
        return self._start("--ignore-times", *LISTED, "--no-implied-dirs")

    def root(self) -> Running:
        """Start a pass of the tree's root alone: its mode, owner, attributes and time."""
        return self._start("--no-recursive", "--dirs", "--exclude=*")

    def resumed(self) -> Running:
        """Start a pass of listed files, as `listed` does, for large files that never change.

        The part of a file that the target has already is not sent again. Holes are written out:
        rsync cannot go on in the middle of one (a part that ends there fails with ENOENT).
        """
        return self._start("--no-sparse", "--partial", "--append-verify", *LISTED)

    def _start(self, *options: str) -> Running:
        return Running(["rsync", *PRESERVE, *options, "--stats"], self._tree, self._carry)


class Running:
    """One pass: rsync on the source, and a thread that connects it with its other end (Carry)."""

    def __init__(self, argv: Sequence[str], tree: int, carry: Carry) -> None:
        shell_reads, to_rsync = os.pipe()
        from_rsync, shell_writes = os.pipe()
        # rsync appends the host's name, which becomes the shell's $0, and the words for the other
        # end. Trailing slashes: copy the content of the tree, not the tree.
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
        self._other = Ending(status=UNKNOWN, complaint="")
        self._answered = threading.Event()
        self._carrier = Worker("rsync", partial(self._serve, carry, from_rsync, to_rsync))

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until both ends wait for the list, one end has failed, or `timeout_s` is over.

        `finish` reports a failure. The start of both ends takes processor time, which is not to be
        spent in the freeze. The other end is known to run by its first answer, which is its version
        of rsync's protocol.
        """
        self._answered.wait(timeout_s)

    def finish(self, timeout_s: float, listed: Iterable[str] = ()) -> int:
        """Wait for the pass to end; return the bytes sent, 0 if rsync did not report them.

        `listed` are the files to copy in a pass that waits for its list, as paths relative to the
        tree's root. In the list each begins with "./", because rsync takes a line that begins with
        "#" or ";" for a comment, even with --from0, and still ends with status 0 (read_line, io.c).

        Raises ReceiverFailed if the target's end failed. Raises CommandFailed if the source's end
        failed, or with status 124 if rsync had not ended after `timeout_s` and was killed.

        The status of the other end is checked here, because rsync does not learn of a file that the
        other end could not write. rsync relies on its remote shell to end with the other end's
        status, and REMOTE_SHELL ends with a status of its own.
        """
        names = b"".join(b"./" + os.fsencode(path) + b"\0" for path in listed)
        try:
            # rsync may end, or write many errors, before it has read all names.
            output, errors = self._process.communicate(names, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise CommandFailed(self._argv, 124, f"no end after {timeout_s:g} s") from error
        self._carrier.wait()
        self._check(errors.decode(errors="replace"))
        return _sent_bytes(output.decode(errors="replace"))

    def _check(self, errors: str) -> None:
        """Raise ReceiverFailed or CommandFailed if an end of the pass has failed."""
        other = self._other
        failed = [
            status for status in (self._process.returncode, other.status) if status not in SUCCESS
        ]
        if failed:
            lines = (errors + other.complaint).splitlines()
            told = "\n".join([line for line in lines if not line.startswith(SUMMARY)] or lines)
            there = receiver_is_to_blame(self._process.returncode, told, other)
            raise (ReceiverFailed if there else CommandFailed)(self._argv, failed[0], told)

    def stop(self) -> None:
        """Have the pass fail at once; `finish`, which another thread may be in, tells of it."""
        self._process.kill()

    def kill(self) -> None:
        """Kill rsync on the source, whatever it is doing. Harmless after `finish`."""
        self._process.kill()
        # The pipes are not read to their end: the remote shell ends later.
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
        except Exception as error:  # `finish` tells of it
            told = f"the connection to rsync on the target failed: {reason(error)}"
            self._other = Ending(status=UNKNOWN, complaint=told)
            log.debug("%s", told, exc_info=True)
        finally:
            self._answered.set()


def served(words: Sequence[str]) -> list[str]:
    """Return the command that starts rsync's receiving end on the target.

    `words` are those with which rsync on the source requested its other end (Carry). The command
    always writes to the tree in its enclosure, whatever directory the words name. Raises ValueError
    if the words do not request a receiving end.
    """
    *options, dot, _ = words
    if tuple(options[: len(SERVER)]) != SERVER or dot != "." or "--sender" in options:
        raise ValueError(f"rsync asks for {' '.join(words)[:200]!r}")
    return [*options, dot, f"{TREE}/"]


def _words(from_rsync: int) -> list[str]:
    """Return the words of the remote shell's first line; [] if there is none, or it is too long."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(from_rsync, 1)  # short result: one byte; what follows is rsync's output
        if not byte or len(line) == MAX_WORDS_BYTES:
            return []
        line += byte
    return line.decode(errors="replace").split()


def receiver_is_to_blame(status: int, told: str, other: Ending) -> bool:
    """Return whether rsync's end on the target is the one whose failure ended the pass.

    `status` is that of rsync on the source; `told` is what both ends wrote.
    """
    if status == STREAM_BROKE and other.complaint:
        return True
    if first := WHICH_PROCESS.search(told):
        return first[1] in RECEIVING
    return status in SUCCESS or bool(other.complaint)


def _sent_bytes(stats: str) -> int:
    """Return the bytes sent, as --stats says in rsync's output; 0 if the output does not say.

    The last such line counts, because the target's end may write between the lines.
    """
    found = re.findall(r"^Total bytes sent: ([0-9.,]{1,24})$", stats, re.MULTILINE)
    return int(re.sub(r"[.,]", "", found[-1]) or 0) if found else 0

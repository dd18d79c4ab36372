"""The one door for subprocesses.

Output is captured in unnamed files, and not by pipes. A container or daemon that a command leaves
behind inherits the command's streams, and a pipe would have to be read until that ends.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from tests.rig import lock
from tests.rig.errors import CommandFailed, CommandTimedOut

DEFAULT_TIMEOUT_S = 60.0

Stream = IO[str] | IO[bytes] | int | None


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    check: bool = True,
    input: str | None = None,
    timeout: float | None = DEFAULT_TIMEOUT_S,
    whole: Sequence[str | os.PathLike[str]] | None = None,
    keep_lock: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and return its status and its output.

    `whole` is the command that runs argv elsewhere, such as in a node; errors do not speak of it.
    `keep_lock` lets the command inherit the rig's lock (lock.py): the command is then part of
    `rig up` even if that is killed. It is for the rig's own short steps only.

    Raises CommandFailed if the status is not 0, unless check is False, and CommandTimedOut if the
    command has not ended after timeout seconds.
    """
    words = [os.fspath(word) for word in argv]
    started = words if whole is None else [os.fspath(word) for word in whole]
    with (
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
        _stdin(input) as stdin,
    ):
        kept = lock.held() if keep_lock else []
        with subprocess.Popen(
            started, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=kept
        ) as process:
            timed_out = False
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                timed_out = True
            except BaseException:
                process.kill()
                raise
            if timed_out:
                process.kill()
                status = process.wait()
        output, errors = _text(stdout), _text(stderr)
    if timed_out:
        raise CommandTimedOut(words, status, output, errors)
    if check and status != 0:
        raise CommandFailed(words, status, output, errors)
    return subprocess.CompletedProcess(words, status, output, errors)


def popen(
    argv: Sequence[str | os.PathLike[str]],
    *,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
) -> subprocess.Popen[str]:
    """Start a command that the caller will wait for."""
    words = [os.fspath(word) for word in argv]
    return subprocess.Popen(
        words, stdin=stdin, stdout=stdout, stderr=stderr, text=True, errors="replace"
    )


def kill(pids: Iterable[int]) -> None:
    """Send SIGKILL to each process that still lives."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _stdin(text: str | None) -> IO[bytes]:
    if text is None:
        return Path(os.devnull).open("rb")
    stream = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's context
    stream.write(text.encode())
    stream.seek(0)
    return stream


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")

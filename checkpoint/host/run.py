"""The only module that starts other programs: by argument lists, and never through a shell."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from checkpoint.errors import CommandFailed

log = logging.getLogger(__name__)
#: The umask of every program that is started, whatever that of this process is, so that an engine
#: makes its files with the modes that it always gives them.
UMASK = 0o022
#: The most characters of one word of a command in the log.
MOST_SHOWN = 80


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    timeout_s: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a short command to its end and return its standard output.

    The output may have names that a container has chosen. Bytes in it that are not text are decoded
    as os.fsdecode does, and `stdin` is encoded as os.fsencode does.
    Raises CommandFailed when the command cannot be started (status 127), takes longer than
    `timeout_s` and is killed (status 124), or ends with a status other than 0.
    """
    began_ns = time.monotonic_ns()
    try:
        done = subprocess.run(
            argv,
            input=None if stdin is None else os.fsencode(stdin),
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env=env,
            umask=UMASK,
            check=False,
        )
    except OSError as error:
        raise CommandFailed(argv, 127, error.strerror or str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(argv, 124, f"no end after {timeout_s:g} s") from error
    ms = (time.monotonic_ns() - began_ns) / 1e6
    log.debug("ran %s: status %d after %.1f ms", _shown(argv), done.returncode, ms)
    if done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stderr.decode(errors="replace"))
    return os.fsdecode(done.stdout)


def start(
    argv: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, and return without waiting for its end.

    In another session the program does not get the SIGINT of a Ctrl-C, which this process handles
    alone. The caller reaps the program. Raises CommandFailed when it cannot be started.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            umask=UMASK,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(argv, 127, error.strerror or str(error)) from error
    log.debug("started %s as process %d", _shown(argv), process.pid)
    return process


def _shown(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a command for the log; a word may be the text of a whole program."""
    return tuple(word[:MOST_SHOWN] for word in argv)


def find_program(name: str, *, path: str | None = None) -> Path | None:
    """Return the first executable called `name` on PATH and in the sbin directories, or None.

    `path` replaces PATH. The sbin directories are searched because a non-login shell over SSH often
    has none on its PATH, and CRIU and iproute2 are installed there.
    """
    wanted = (path if path is not None else os.environ.get("PATH", os.defpath)).split(":")
    for directory in [*wanted, "/usr/local/sbin", "/usr/sbin", "/sbin"]:
        candidate = Path(directory or ".") / name
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    return None

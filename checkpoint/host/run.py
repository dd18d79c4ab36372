"""The one door to other programs: argv lists, never a shell, children always reaped."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from checkpoint.errors import CommandFailed

log = logging.getLogger(__name__)
#: Of every program started here, whatever this process's is: an engine makes its files as it always does.
UMASK = 0o022


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    timeout_s: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a short command to its end and return its standard output.

    The output may name what a container has named: bytes that are no text come as os.fsdecode has them.
    Raises CommandFailed when it cannot be started, times out or ends with a status other than 0.
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
    log.debug("ran %s: status %d after %.1f ms", tuple(argv), done.returncode, ms)
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
    """Start a program in its own session, so that a Ctrl-C at our terminal is ours alone to handle."""
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
    log.debug("started %s as process %d", tuple(argv), process.pid)
    return process


def find_program(name: str, *, path: str | None = None) -> Path | None:
    """The first executable of that name on PATH and the sbin directories, or None.

    A non-login shell over SSH often has no sbin on its PATH; CRIU and iproute2 live there.
    """
    wanted = (path if path is not None else os.environ.get("PATH", os.defpath)).split(":")
    for directory in [*wanted, "/usr/local/sbin", "/usr/sbin", "/sbin"]:
        candidate = Path(directory or ".") / name
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    return None

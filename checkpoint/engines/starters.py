"""What else than an engine starts a container: a systemd unit whose process stays with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from checkpoint.engines.base import Container
from checkpoint.errors import ProcError
from checkpoint.host import proc, systemd

#: The programs that stay as long as the container that they have started, and their commands.
PROGRAMS = {"docker", "podman", "runc", "crun"}
COMMANDS = {"run", "start", "restart", "wait"}
#: The length of the shortest id by which engines name a container themselves.
SHORT_ID = 12


def restarting_unit(container: Container) -> str | None:
    """Return the systemd unit that would start the container again on this host, or None.

    It is one whose main process is a command that names the container, or podman's conmon.
    """
    for pid in _starters(container):
        with contextlib.suppress(OSError, ProcError):  # it has ended
            if (unit := systemd.restarting_unit(pid)) is not None:
                return unit
    return None


def _starters(container: Container) -> Iterator[int]:
    conmon = container.engine_state.get("State", {}).get("ConmonPid")
    if conmon:
        yield conmon
    for pid in proc.pids():
        with contextlib.suppress(OSError):
            program, *words = os.fsdecode(proc.read(pid, "cmdline")).split("\0")
            if (
                os.path.basename(program) in PROGRAMS
                and COMMANDS.intersection(words)
                and any(_names(word, container) for word in words)
            ):
                yield pid


def _names(word: str, container: Container) -> bool:
    """Return whether a word of a command names the container: `web`, `--name=web`, or its id."""
    word = word.removeprefix("--name=")
    is_id = len(word) >= SHORT_ID and container.id.startswith(word)
    return word == container.name or is_id

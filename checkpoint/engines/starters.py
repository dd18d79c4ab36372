"""What else than an engine starts a container: a systemd unit whose process stays with it."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator

from checkpoint.engines.base import Container
from checkpoint.errors import ProcError
from checkpoint.host import proc, systemd

#: The programs that stay as long as the container that they have started: the engines, whose `run`
#: takes a name as an option, and runtimes, whose `run` takes an id as its last word.
CLIENTS, RUNTIMES = {"docker", "podman"}, {"runc", "crun"}
NAME = "--name"
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
            program, *words = os.fsdecode(proc.read(pid, "cmdline")).rstrip("\0").split("\0")
            if any(_is(each, container) for each in _started(os.path.basename(program), words)):
                yield pid


def _started(program: str, words: list[str]) -> Iterator[str]:
    """Yield the names or ids of containers that a command has started and stays with."""
    if program in CLIENTS and "run" in words:
        options = words[words.index("run") + 1 :]
        for word, following in itertools.pairwise([*options, ""]):
            if word == NAME:
                yield following
            elif word.startswith(f"{NAME}="):
                yield word.removeprefix(f"{NAME}=")
    elif program in CLIENTS and "start" in words:
        yield from (word for word in words[words.index("start") + 1 :] if word[:1] != "-")
    elif program in RUNTIMES and "run" in words:
        yield words[-1]


def _is(name: str, container: Container) -> bool:
    """Return whether a name or an id is the container's."""
    is_id = len(name) >= SHORT_ID and container.id.startswith(name)
    return name == container.name or is_id

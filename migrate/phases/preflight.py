"""The checks of both hosts before a migration, which change nothing on either."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from checkpoint.engines import starters
from checkpoint.engines.base import Container, Engine
from checkpoint.engines.belongings import SHM
from checkpoint.engines.registry import ENGINES, engine_named, owners_of
from checkpoint.files.beneath import TreeRoot
from checkpoint.files.tmpfs import bytes_in, content_bytes
from checkpoint.host import lock, proc, processes
from migrate.agent.client import AgentClient
from migrate.decisions.compatibility import Facts, check_host, check_pair
from migrate.errors import (
    AddressTaken,
    AlreadyMoving,
    NoSuchContainer,
    NotMovableError,
    NotRoot,
    OpenFileOutside,
    PathTaken,
    RefusedByEngine,
    SeveralContainers,
    Side,
)
from migrate.files.tmpfs import own_mounts
from migrate.host_facts import collect
from migrate.progress import Progress
from migrate.wire import protocol
from migrate.wire.answers import check_asked, check_known
from migrate.wire.protocol import ProtocolError
from migrate.wire.values import PROBE_PREFIX, OwnAddress, Probe

#: A process that `exec` started is reported if it is older than this many seconds.
PASSING_S = 1.0


def choose_engine(engine: str | None, container_name: str) -> Engine:
    """Return the engine that the user named, or else the one that has a container of that name.

    Raises NotRoot, since engines list containers to root only, AlreadyMoving if another task has
    the container, NoSuchContainer or SeveralContainers.
    """
    if os.geteuid() != 0:
        raise NotRoot(Side.SOURCE, platform.node())
    # No engine has such a name, and some cannot be asked for it.
    if not container_name.isprintable():
        raise NoSuchContainer(_nobody_has(container_name, ENGINES))
    # Locks are looked at before engines are asked: an engine knows nothing, or half, of a container
    # that is being restored on this host, and podman does not answer until that is done.
    for name in [engine] if engine is not None else ENGINES:
        if holder := lock.holder_of(lock.name_key(name, container_name)):
            raise AlreadyMoving("the source", holder)
    if engine is not None:
        return engine_named(engine)
    found, silent = owners_of(container_name)
    if not found:
        asked = [name for name in ENGINES if name not in silent]
        raise NoSuchContainer(_nobody_has(container_name, asked, silent.values()))
    if len(found) > 1:
        raise SeveralContainers(container_name, [each.name for each in found])
    return found[0]


def _nobody_has(container_name: str, asked: Iterable[str], silent: Iterable[str] = ()) -> str:
    """Return the sentence that no engine has such a container.

    `silent` says, for people, why some engines could not be asked.
    """
    asked_ones = f"{', '.join(asked) or 'no engine'} could be asked"
    found = "; ".join([asked_ones, *silent])
    return f"there is no container named {container_name!r} on this host ({found})"


def check_source(engine: Engine, container_name: str) -> Facts:
    """Return the facts of the source, on which this runs.

    Raises NotRoot, MissingOnHost or CriuTooOld for the first requirement that the source does not
    meet.
    """
    facts = collect(engine, container_name)
    check_host(facts, Side.SOURCE)
    return facts


def check_open_files(container: Container, pids: list[int]) -> None:
    """Raise OpenFileOutside for the first descriptor of a file outside the container's mounts.

    CRIU cannot dump such a descriptor.
    """
    for outside in processes.open_outside(container.pid, pids):
        raise OpenFileOutside(outside.pid, outside.fd, outside.path)


def check_pid_namespace(init: int) -> None:
    """Raise NotMovableError unless the container's first process is the init of a pid namespace.

    Only the death of such an init is the death of the whole container (pid_namespaces(7)). Raises
    OSError and ProcError.
    """
    if processes.virtual_pid(init) != 1:
        raise NotMovableError(
            f"process {init}, the container's first, shares the pid namespace of the host or of"
            " another container, so that its death would not end all of the container's processes",
            "start the container with a pid namespace of its own (without '--pid')",
        )


def check_starter(container: Container) -> None:
    """Raise NotMovableError for a container that a systemd unit would start again on this host."""
    if (unit := starters.restarting_unit(container)) is not None:
        raise NotMovableError(
            f"the systemd unit {unit!r} of this host runs the container, and would start it again"
            " once it has left",
            f"start it without the unit, or set 'Restart=no' ('systemctl edit {unit}')",
        )


def note_exec_processes(container: Container, progress: Progress) -> None:
    """Note the processes that the engine's `exec` has started inside the container.

    CRIU does not dump them, since they do not descend from the container's init. Processes younger
    than PASSING_S are not noted: they are likely to be health checks, which end soon by
    themselves. Each process is noted once.
    """
    tree = processes.tree_of(container.pid)
    for pid in processes.in_pid_namespace_of(container.pid):
        with contextlib.suppress(OSError):
            if pid in tree or processes.has_ended(pid) or processes.age_s(pid) <= PASSING_S:
                continue
            name = proc.command_name(pid)
            note = (
                f"process {pid} ({name!r}) was started inside the container by 'exec'"
                " and does not come along"
            )
            if note not in progress.report.notes:
                progress.note(note)


def check_limits(pids: list[int]) -> None:
    """Raise NotMovableError if CRIU could not read a process's resource limits (prlimit(2))."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            try:
                resource.prlimit(pid, resource.RLIMIT_CPU)
            except PermissionError as error:
                raise NotMovableError(
                    f"process {pid} of the container is not root's, "
                    "and this host gives CRIU no CAP_SYS_RESOURCE",
                    "run it where root has all capabilities",
                ) from error


def check_target(target: Facts, source: Facts, container: Container, memory_bytes: int) -> None:
    """Raise the error for the first thing that keeps the container from running on the target.

    `memory_bytes` is what the container's processes will take after the restore. The errors are
    those of check_host and check_pair (migrate/decisions/compatibility.py).
    """
    check_host(target, Side.TARGET)
    found = _tmpfs_bytes(container)
    check_pair(
        source, target, container=container.name, memory_bytes=memory_bytes, tmpfs_bytes=found
    )


def _tmpfs_bytes(container: Container) -> int:
    """Return the bytes of RAM in the container's tmpfs mounts, and in a /dev/shm of its engine."""
    total = content_bytes(container.pid, own_mounts(container))
    for tree in container.trees:
        if tree.destination == SHM:
            with TreeRoot(tree.root) as root:
                total += bytes_in(root)
    return total


def check_addresses(agent: AgentClient, questions: tuple[OwnAddress, ...], host: str) -> None:
    """Raise AddressTaken if another station answers for one of the container's addresses.

    The target asks for each of them on its bridge of the same name. Raises ProtocolError for an
    answer about another address.
    """
    if questions:
        answer = agent.request(protocol.CheckAddresses(addresses=questions))
        check_known(
            "CheckAddresses",
            [station.address for station in answer.taken],
            {each.address for each in questions},
        )
        for address, mac in answer.taken:
            raise AddressTaken(address, mac, host)


def check_paths(agent: AgentClient, container: Container, host: str) -> bool:
    """Return whether both hosts see the same rootfs; raise for paths that are in the way.

    Raises PathTaken if the bundle or the rootfs would overwrite something on the target,
    NotMovableError if the target does not have a bind-mounted path or does not share a writable
    one, and ProtocolError for an answer that was not asked for.
    """
    # podman and docker keep a rootfs in their own storage, which no two hosts share.
    engine_keeps_it = container.engine_network
    with contextlib.nullcontext() if engine_keeps_it else _probe(container.rootfs) as probe:
        required = tuple(source for source, _ in container.host_paths)
        own = () if engine_keeps_it else (str(container.bundle), str(container.rootfs))
        answer = agent.request(protocol.CheckPaths(required=required, own=own, probe=probe))
    check_asked("CheckPaths", answer.missing, required)
    check_asked("CheckPaths", answer.taken, own)
    if answer.shared and probe is None:
        raise ProtocolError("the target shares files that it was not asked for")
    for path in answer.taken:
        raise PathTaken(path, host)
    for source in answer.missing:
        raise NotMovableError(
            f"{source}, bind-mounted into the container, does not exist on {host}",
            "create it there",
        )
    for source, writable in container.host_paths:
        if writable and not answer.shared:
            raise NotMovableError(
                f"{source} is bind-mounted writable and not shared with {host}",
                "share it, or mount it read-only",
            )
    return answer.shared


def check_engine(
    agent: AgentClient, engine: Engine, container: Container, host: str
) -> frozenset[str] | None:
    """Return those layers of the container's image that the target's engine has.

    Returns None if the engine has the whole image or needs none. Raises RefusedByEngine if the
    engine cannot take the container in, and ProtocolError for layers that are not the image's.
    """
    examined = agent.request(protocol.Examine(description=engine.describe(container)))
    for objection in examined.objections:
        raise RefusedByEngine(host, objection)
    if examined.layers is None:
        return None
    check_asked("Examine", examined.layers, engine.layers(container))
    return frozenset(examined.layers)


@contextlib.contextmanager
def _probe(rootfs: Path) -> Iterator[Probe]:
    """Put a file with a secret into the rootfs for the length of the block, and yield its Probe.

    The target shares the rootfs if it finds the secret under the same path.
    """
    secret = secrets.token_hex(16)
    name = f"{PROBE_PREFIX}{secret[:8]}"
    with TreeRoot(rootfs) as root:
        # A read-only rootfs cannot be probed and counts as not shared.
        with contextlib.suppress(OSError):
            root.create(name, secret.encode())
        try:
            yield Probe(str(rootfs / name), secret)
        finally:
            with contextlib.suppress(OSError):
                root.remove([name])

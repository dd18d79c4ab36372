"""Facts of the two hosts, and whether a container can go from one to the other. No I/O here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from checkpoint.bounded import HostName, Size, Text, Word
from checkpoint.schema import Length, Range
from migrate.errors import (
    CriuTooOld,
    CriuWireMismatch,
    MachineMismatch,
    MissingOnHost,
    NameTaken,
    NotEnoughMemory,
    NotRoot,
    Side,
)

#: A version of CRIU as CRIU numbers it, with two digits each of major, minor and sublevel: 40201 is
#: 4.2.1.
CriuVersion = Annotated[int, Range(0, 999_999)]
#: The version since which CRIU's page-server messages and pagemap entries have another form.
WIRE_CHANGED = 40200
#: The oldest CRIU that works, by Linux version, newest first: (Linux, CRIU, what breaks with an
#: older CRIU).
NEEDED_CRIU = (
    ((6, 16), 40200, "SO_PASSCRED and SO_PASSSEC are refused on inet sockets since Linux 6.16"),
    ((6, 13), 40100, "the layout of the vdso changed in Linux 6.13"),
    ((0, 0), 31600, "older ones cannot hold a restore the way this tool needs"),
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts of one host: of the target as found by the agent, of the source by the coordinator.

    `criu_version` and `engine_version` are None if the program is missing.
    `pycriu_error` is None if pycriu works. `dumps_with_parent`: CRIU can be told that its dump has
    a parent (checkpoint/criu/parent.py). `available_bytes` is RAM that can be allocated now.
    """

    hostname: HostName
    kernel: Word
    machine: Word
    python: Word
    uid: int
    criu_version: CriuVersion | None
    pycriu_error: Text | None
    engine: Word
    engine_version: Word | None
    container_exists: bool
    nftables: bool
    lazy_pages: bool
    write_tracking: bool
    dumps_with_parent: bool
    soft_dirty: bool
    rsync: bool
    iproute2: bool
    available_bytes: Size
    encodings: Annotated[tuple[Word, ...], Length(16)]


def version_text(criu_version: int) -> str:
    """Return a version of CRIU for people: "4.2.1" for 40201."""
    major, minor, sub = criu_version // 10000, criu_version // 100 % 100, criu_version % 100
    return f"{major}.{minor}" + (f".{sub}" if sub else "")


def kernel_tuple(release: str) -> tuple[int, int]:
    """Return (major, minor) of a kernel release: (6, 18) for "6.18.44-cloud".

    A release that is no version at all gives (0, 0).
    """
    numbers = re.match(r"(\d+)(?:\.(\d+))?", release)
    return (int(numbers[1]), int(numbers[2] or 0)) if numbers else (0, 0)


def check_host(facts: Facts, where: Side) -> None:
    """Raise the error for the first thing that the host needs and does not have."""
    if facts.uid != 0:
        raise NotRoot(where, facts.hostname)
    if facts.criu_version is None:
        raise MissingOnHost(where, facts.hostname, "criu")
    if facts.pycriu_error is not None:
        raise MissingOnHost(where, facts.hostname, "pycriu", facts.pycriu_error)
    if facts.engine_version is None:
        raise MissingOnHost(where, facts.hostname, facts.engine)
    if not facts.rsync:
        raise MissingOnHost(where, facts.hostname, "rsync")
    if not facts.iproute2:
        raise MissingOnHost(where, facts.hostname, "iproute2")
    kernel = kernel_tuple(facts.kernel)
    needed, why = next((criu, why) for since, criu, why in NEEDED_CRIU if kernel >= since)
    if facts.criu_version < needed:
        raise CriuTooOld(
            where,
            facts.hostname,
            version_text(facts.criu_version),
            facts.kernel,
            needed=version_text(needed),
            why=why,
        )


def check_pair(
    source: Facts, target: Facts, *, container: str, memory_bytes: int, tmpfs_bytes: int
) -> None:
    """Raise the error for the first thing that keeps the container from the target.

    `memory_bytes` is the RAM that its processes will take on the target, `tmpfs_bytes` the content
    of its tmpfs mounts.
    """
    assert source.criu_version is not None
    assert target.criu_version is not None
    if source.machine != target.machine:
        raise MachineMismatch(source.machine, target.hostname, target.machine)
    if (source.criu_version >= WIRE_CHANGED) != (target.criu_version >= WIRE_CHANGED):
        raise CriuWireMismatch(version_text(source.criu_version), version_text(target.criu_version))
    if target.container_exists:
        raise NameTaken(container, target.hostname, target.engine)
    if target.available_bytes < (needed := memory_needed(memory_bytes) + tmpfs_bytes):
        raise NotEnoughMemory(target.hostname, needed, target.available_bytes)


def room_needed(memory_bytes: int) -> int:
    """Return the bytes of RAM that image files and the page store need.

    That is all memory once, a quarter more for what grows and goes away during the migration, and
    64 MiB for the metadata of images and the programs that run.
    """
    return memory_bytes + memory_bytes // 4 + (64 << 20)


def room(memory_bytes: int, available_bytes: int) -> int:
    """Return the bytes of RAM that image files and the page store may take.

    That is what they need, or half of what the memory leaves of `available_bytes`, if that is more.
    """
    return max(room_needed(memory_bytes), (available_bytes - memory_bytes) // 2)


def memory_needed(memory_bytes: int) -> int:
    """Return the bytes of RAM that a restore takes: the memory, and what it is restored from."""
    return memory_bytes + room_needed(memory_bytes)

"""Files of /proc as records (proc(5)).

The names of processes, files and mounts in these files are chosen by the container: any bytes but NUL.
The kernel escapes only what separates the records and fields of a file. A file is therefore split at
newlines alone, where str.splitlines and text mode also split at carriage returns and form feeds, and
is decoded as file names are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from checkpoint.errors import ProcError

_ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")


class Mount(NamedTuple):
    """One line of mountinfo: `root` of a file system, seen at `point`.

    `device` is "major:minor". `propagation` are the optional fields ("shared:7", "master:3").
    `options` are those of the file system itself, with the kernel's escapes.
    """

    id: int
    device: str
    root: str
    point: str
    propagation: tuple[str, ...]
    kind: str
    options: str


class Mapping(NamedTuple):
    """One line of maps: addresses [start, end), "rwxp" permissions, and what is mapped.

    `device` is "major:minor" in hexadecimal digits, as the kernel writes it there.
    In `path` a newline stands as \\012, and so does a backslash followed by these digits: the kernel
    does not tell the two apart. The path of memory without a name is "".
    """

    start: int
    end: int
    permissions: str
    device: str
    inode: int
    path: str


def lines(path: str | Path) -> list[str]:
    """The lines of a file of /proc, without their ends. Raises OSError."""
    found = os.fsdecode(Path(path).read_bytes()).split("\n")
    return found if found[-1] else found[:-1]


def number(path: str | Path, name: str, base: int = 10) -> int | None:
    """The last number of the first line "NAME: ..." of a file; None where there is no such line.

    The file is read no further: the fdinfo of an epoll has a line for each descriptor it watches.
    Raises OSError and ProcError.
    """
    with open(path, "rb") as file:
        for line in file:
            found, _, value = line.partition(b":")
            if found == name.encode():
                try:
                    return int(value.split()[-1], base)
                except (ValueError, IndexError) as error:
                    raise ProcError(f"{name} of {path} is {value!r}") from error
    return None


def cgroups(pid: int | str) -> list[tuple[str, str]]:
    """(controllers, path) of where a process is in each hierarchy (cgroups(7)); the controllers of v2 are "".

    Raises OSError and ProcError.
    """
    return [_cgroup(line) for line in lines(f"/proc/{pid}/cgroup")]


def mounts(pid: int | str) -> list[Mount]:
    """The mounts that a process sees (proc_pid_mountinfo(5)). Raises OSError and ProcError."""
    return [_mount(line) for line in lines(f"/proc/{pid}/mountinfo")]


def mappings(pid: int | str) -> Iterator[Mapping]:
    """The mappings of a process, in the order of their addresses (proc_pid_maps(5)). Raises OSError and ProcError."""
    return map(_mapping, lines(f"/proc/{pid}/maps"))


def device_text(device: int) -> str:
    """A device number (st_dev) as the maps of a process have it (proc_pid_maps(5))."""
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def mapped_file(pid: int, mapping: Mapping) -> str:
    """The path of a mapped file, exactly. Raises OSError for a mapping that is gone."""
    if "\\012" not in mapping.path:
        return mapping.path
    return os.readlink(f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}")


def unescaped(text: str) -> str:
    """A field of mountinfo, where a byte that would separate fields is three octal digits behind a backslash."""
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), os.fsencode(text)))


def state(stat: bytes) -> tuple[str, int]:
    """The state and the flags (PF_*) of a process, of what its `stat` holds (proc_pid_stat(5)). Raises ProcError."""
    fields = _behind_name(stat)
    try:
        return fields[0].decode(), int(fields[6])
    except (ValueError, IndexError) as error:
        raise ProcError(f"{stat[:80]!r} is no stat of a process") from error


def start_ticks(stat: bytes) -> int:
    """When a process was started, in clock ticks since boot (proc_pid_stat(5), field 22). Raises ProcError."""
    fields = _behind_name(stat)
    try:
        return int(fields[19])
    except (ValueError, IndexError) as error:
        raise ProcError(f"{stat[:80]!r} is no stat of a process") from error


def _behind_name(stat: bytes) -> list[bytes]:
    """The fields from the third on: up to the last parenthesis is the name, which the process gives itself."""
    return stat[stat.rfind(b")") + 1 :].split() if b")" in stat else []


def _cgroup(line: str) -> tuple[str, str]:
    try:
        _, controllers, path = line.split(":", 2)
    except ValueError as error:
        raise ProcError(f"{line[:80]!r} is no line of a cgroup file") from error
    return controllers, path


def _mount(line: str) -> Mount:
    try:
        # Within a field every blank is escaped; an empty one, like a source of "", leaves two in a row.
        seen, _, behind = line.partition(" - ")
        number, _, device, root, point, _, *propagation = seen.split(" ")
        kind, _, options = behind.split(" ", 2)
        return Mount(
            int(number),
            device,
            unescaped(root),
            unescaped(point),
            tuple(propagation),
            kind,
            options,
        )
    except ValueError as error:
        raise ProcError(f"{line[:80]!r} is no line of mountinfo") from error


def _mapping(line: str) -> Mapping:
    try:
        addresses, permissions, _, device, inode, path = line.split(" ", 5)
        start, end = addresses.split("-")
        found = Mapping(
            int(start, 16), int(end, 16), permissions, device, int(inode), path.lstrip(" ")
        )
    except ValueError as error:
        raise ProcError(f"{line[:80]!r} is no line of maps") from error
    if not 0 <= found.start < found.end or len(permissions) != len("rwxp"):
        raise ProcError(f"{line[:80]!r} is no line of maps")
    return found

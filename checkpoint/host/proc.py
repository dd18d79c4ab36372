"""The one door to /proc (proc(5)): paths in it, and parsers for its files.

The container chooses the names of processes, files and mounts in these files, and a name may have
any bytes but NUL. The kernel escapes only the bytes that separate the records and fields of a file.
A file is therefore split at newlines alone, because str.splitlines and text mode also split at
carriage returns and form feeds. Its bytes are decoded as file names are (os.fsdecode).
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
    """One line of mountinfo: the directory `root` of a file system, mounted at `point`.

    `device` is "major:minor", `kind` the type of the file system. `propagation` has the optional
    fields ("shared:7", "master:3"). `options` are those of the file system itself, with the
    kernel's escapes.
    """

    id: int
    device: str
    root: str
    point: str
    propagation: tuple[str, ...]
    kind: str
    options: str


class Mapping(NamedTuple):
    r"""One line of maps: addresses [start, end), "rwxp" permissions, and the mapped file.

    `device` is "major:minor" in hexadecimal digits, as the kernel writes it there.
    In `path`, the characters \012 stand for a newline or for themselves: the kernel escapes a
    newline and does not escape a backslash. The path of memory without a name is "".
    """

    start: int
    end: int
    permissions: str
    device: str
    inode: int
    path: str


def path(*names: int | str) -> str:
    """Return the path of a file in /proc: path(7, "fd", 3) is "/proc/7/fd/3"."""
    return "/".join(("/proc", *map(str, names)))


def pids() -> list[int]:
    """Return the pids of all processes that this process can see."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descriptors(pid: int | str) -> list[int]:
    """Return the numbers of a process's open descriptors. Raises OSError."""
    return [int(name) for name in os.listdir(path(pid, "fd"))]


def command_name(pid: int) -> str:
    """Return the name of a process's program, cut to 15 bytes (proc_pid_comm(5)). Raises OSError.

    The process chooses the name.
    """
    return Path(path(pid, "comm")).read_text(errors="replace").removesuffix("\n")


def read(*names: int | str) -> bytes:
    """Return the content of the file path(*names). Raises OSError."""
    return Path(path(*names)).read_bytes()


def lines(file: str | Path) -> list[str]:
    """Return the lines of a file of /proc, without their newlines. Raises OSError."""
    found = os.fsdecode(Path(file).read_bytes()).split("\n")
    return found if found[-1] else found[:-1]


def number(file: str | Path, name: str, base: int = 10) -> int | None:
    """Return the last number of the first line "NAME: ..." of a file, or None without such a line.

    The file is not read beyond that line, because the fdinfo of an epoll has a line for each
    descriptor that it watches. `base` is the base of the number. Raises OSError and ProcError.
    """
    with open(file, "rb") as opened:
        for line in opened:
            found, _, value = line.partition(b":")
            if found == name.encode():
                try:
                    return int(value.split()[-1], base)
                except (ValueError, IndexError) as error:
                    raise ProcError(f"{name} of {file} is {value!r}") from error
    return None


def cgroups(pid: int | str) -> list[tuple[str, str]]:
    """Return (controllers, path) for the cgroup of a process in each hierarchy (cgroups(7)).

    `controllers` are separated by commas, and "" for the v2 hierarchy.
    Raises OSError and ProcError.
    """
    return [cgroup_in(line) for line in lines(path(pid, "cgroup"))]


def mounts(pid: int | str) -> list[Mount]:
    """Return the mounts that a process sees (proc_pid_mountinfo(5)).

    Raises OSError and ProcError.
    """
    return [mount_in(line) for line in lines(path(pid, "mountinfo"))]


def mappings(pid: int | str) -> Iterator[Mapping]:
    """Return the mappings of a process, in rising order of address (proc_pid_maps(5)).

    The file is read at the call, which raises OSError. A line is parsed when its mapping is taken,
    which raises ProcError.
    """
    return map(mapping_in, lines(path(pid, "maps")))


def device_text(device: int) -> str:
    """Return a device number (st_dev) in the form of `Mapping.device` (proc_pid_maps(5))."""
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def mapped_file(pid: int, mapping: Mapping) -> str:
    """Return the exact path of a mapped file, where `Mapping.path` may be ambiguous.

    Raises OSError when that needs a look at the mapping and the mapping is gone.
    """
    if "\\012" not in mapping.path:
        return mapping.path
    return os.readlink(path(pid, "map_files", f"{mapping.start:x}-{mapping.end:x}"))


def unescaped(text: str) -> str:
    """Return a field of mountinfo without the kernel's escapes.

    The kernel writes a byte that would separate fields as a backslash and three octal digits.
    """
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), os.fsencode(text)))


def state(stat: bytes) -> tuple[str, int]:
    """Return the state letter and the flags (PF_*) of a process, from the content of its `stat`.

    Source: proc_pid_stat(5), fields 3 and 9. Raises ProcError.
    """
    fields = _behind_name(stat)
    try:
        return fields[0].decode(), int(fields[6])
    except (ValueError, IndexError) as error:
        raise ProcError(f"{stat[:80]!r} is no stat of a process") from error


def pending_signals(status: bytes) -> int:
    """Return the mask of the signals that wait for a process, from the content of its `status`.

    Bit N - 1 is signal N. The signals wait for the main thread (SigPnd) or for any thread (ShdPnd).
    Raises ProcError.
    """
    found = re.findall(rb"^S(?:ig|hd)Pnd:\t([0-9a-f]+)$", status, re.MULTILINE)
    if len(found) != 2:
        raise ProcError(f"{status[:80]!r} is no status of a process")
    return int(found[0], 16) | int(found[1], 16)


def boot_id() -> str:
    """Return the id that the kernel gave itself at this boot (random(4)). Raises OSError."""
    return read("sys", "kernel", "random", "boot_id").decode().strip()


def start_ticks(stat: bytes) -> int:
    """Return when a process was started, from the content of its `stat`.

    The time is in clock ticks since boot. Source: proc_pid_stat(5), field 22. Raises ProcError.
    """
    fields = _behind_name(stat)
    try:
        return int(fields[19])
    except (ValueError, IndexError) as error:
        raise ProcError(f"{stat[:80]!r} is no stat of a process") from error


def parent(stat: bytes) -> int:
    """Return the pid of a process's parent, from the content of its `stat` (field 4).

    Raises ProcError.
    """
    fields = _behind_name(stat)
    try:
        return int(fields[1])
    except (ValueError, IndexError) as error:
        raise ProcError(f"{stat[:80]!r} is no stat of a process") from error


def _behind_name(stat: bytes) -> list[bytes]:
    """Return the fields of a `stat` file from the third on, or [] if the file has no process name.

    The second field is the process's name in parentheses. The process chooses that name, which may
    hold parentheses and blanks, so the field ends at the last closing parenthesis.
    """
    return stat[stat.rfind(b")") + 1 :].split() if b")" in stat else []


def cgroup_in(line: str) -> tuple[str, str]:
    """Return (controllers, path) of a line of a cgroup file. Raises ProcError."""
    try:
        _, controllers, path = line.split(":", 2)
    except ValueError as error:
        raise ProcError(f"{line[:80]!r} is no line of a cgroup file") from error
    return controllers, path


def mount_in(line: str) -> Mount:
    """Return the mount of a line of mountinfo. Raises ProcError."""
    try:
        # The kernel escapes blanks within a field. An empty field, such as a mount source "",
        # leaves two blanks in a row, so the line is split at every single blank.
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


def mapping_in(line: str) -> Mapping:
    """Return the mapping of a line of maps. Raises ProcError."""
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

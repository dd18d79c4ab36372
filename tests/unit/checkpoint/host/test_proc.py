"""Tests of checkpoint/host/proc.py: processes, files and mounts with hostile names.

The modules that read /proc through it are tested with the same names.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.errors import ProcError
from checkpoint.files.changes import written_through_mappings
from checkpoint.files.tmpfs import tmpfs_mounts
from checkpoint.host import cgroups, proc
from checkpoint.host.processes import Init, open_outside
from checkpoint.memory.tracking.inject import find_syscall, has_seccomp
from checkpoint.memory.tracking.tracker import Tracker, reads_directly, virtual_pid
from checkpoint.memory.tracking.write_protection import private_mappings

#: Names that a file system takes, and that parsers of lines and blanks take for something else.
HOSTILE = [
    b"a b",
    b"new\nline",
    b"back\\012slash",
    b"both\\012and\n",
    b"form\x0cfeed",
    b"return\r",
    b"\xff\xfe",
    "\u2028\x85 \u00a0".encode(),
    b" - tmpfs tmpfs rw",
    b"tab\tbed",
    b"hash#",
    b"end\\",
]

PROGRAM = Path(__file__).parent / "programs/mapper.py"


@contextlib.contextmanager
def process(
    name: bytes = b"x", *files: Path, inside: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process with a name that maps files, perhaps inside another program."""
    argv = [*inside, sys.executable, "-IS", str(PROGRAM), os.fsdecode(name), *map(str, files)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"\n"
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize(
    "name", [b"\xff", b"a) Z 1 1", b"\nNSpid:\t77", b"\rNSpid:\t77", b"\x0bNSpid:\t77", b""]
)
def test_a_process_is_not_what_it_calls_itself(name: bytes) -> None:
    with process(name) as child:
        assert virtual_pid(child.pid) == child.pid
        assert not has_seccomp(child.pid)
        init = Init(child.pid)
        assert not init.is_dead()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert init.is_dead()
        init.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_written_through_a_mapping_is_found_by_its_name(
    tmp_path: Path, name: bytes
) -> None:
    file = tmp_path / os.fsdecode(name)
    file.write_bytes(bytes(4096))
    with process(b"x", file) as child:
        found = {
            path
            for path in written_through_mappings([child.pid])
            if path.startswith(str(tmp_path).lstrip("/"))
        }
        assert found == {str(file).lstrip("/")}
        starts = {start for start, _ in private_mappings(child.pid)}
        assert {
            mapping.start for mapping in proc.mappings(child.pid) if mapping.permissions[3] == "p"
        } >= starts
        assert all(not mapping.path.startswith(str(tmp_path)) or mapping.start not in starts
                   for mapping in proc.mappings(child.pid))  # fmt: skip
        assert find_syscall(child.pid) > 0
        assert not reads_directly(child.pid)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"return\r", b"form\x0cfeed"])
def test_a_process_with_a_hostile_name_is_tracked(tmp_path: Path, name: bytes) -> None:
    file = tmp_path / os.fsdecode(name)
    file.write_bytes(bytes(4096))
    with process(name, file) as child, contextlib.closing(Tracker(child.pid)) as tracker:
        assert tracker.virtual_pid == child.pid
        assert tracker.written()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_mount_with_a_hostile_name_is_found(tmp_path: Path, name: bytes) -> None:
    point = tmp_path / os.fsdecode(name)
    point.mkdir()
    # A source of no characters leaves an empty field in mountinfo.
    mounts = 'mount -t tmpfs -o size=64k "" "$0" && mount --make-private "$0" && exec "$@"'
    inside = ("unshare", "--mount", "--propagation", "private", "sh", "-c", mounts, str(point))
    with process(b"x", inside=inside) as child:
        (found,) = [
            mount for mount in proc.mounts(child.pid) if mount.point.startswith(str(tmp_path))
        ]
        assert (found.point, found.kind, found.root, found.propagation) == (
            str(point),
            "tmpfs",
            "/",
            (),
        )
        assert "size=64k" in found.options.split(",")
        assert str(point) in [mount.path for mount in tmpfs_mounts(child.pid, [child.pid])]
        assert [one for one in open_outside(child.pid, [child.pid]) if one.fd > 2] == []
        assert list(cgroups.directories(child.pid, "cpu")) == list(
            cgroups.directories(os.getpid(), "cpu")
        )


def test_memory_without_a_name_has_none() -> None:
    with mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
        found = list(proc.mappings("self"))
    assert "" in [mapping.path for mapping in found]
    assert "[vdso]" in [mapping.path for mapping in found]
    assert all(mapping.start < mapping.end for mapping in found)


@pytest.mark.parametrize(
    "line", ["", "1-2", "2-1 rwxp 0 0:0 0 /x", "x-y rwxp 0 0:0 0 /x", "1-2 rw 0 0:0 0 /x"]
)
def test_a_line_that_maps_cannot_have_is_refused(line: str) -> None:
    with pytest.raises(ProcError):
        proc.mapping_in(line)


@pytest.mark.parametrize(
    "line", ["", "1 2 0:3 / /x rw", "x 2 0:3 / /x rw - tmpfs x rw", "1 2 0:3 / /x rw - tmpfs"]
)
def test_a_line_that_mountinfo_cannot_have_is_refused(line: str) -> None:
    with pytest.raises(ProcError):
        proc.mount_in(line)


def test_a_field_that_is_no_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"flags:\t\nmnt_id:\t0x1\nother:\t1 2\n")
    for name in ("flags", "mnt_id"):
        with pytest.raises(ProcError):
            proc.number(tmp_path / "file", name)
    assert proc.number(tmp_path / "file", "other") == 2
    assert proc.number(tmp_path / "file", "none") is None


@pytest.mark.parametrize("name", [b"sleep", b"a) S 1 (b", b"\xff\n", b""])
def test_the_start_of_a_process_does_not_depend_on_its_name(name: bytes) -> None:
    fields = b" ".join(str(number).encode() for number in range(4, 53))
    assert proc.start_ticks(b"7 (" + name + b") S " + fields) == 22
    assert proc.parent(b"7 (" + name + b") S " + fields) == 4


@pytest.mark.parametrize(
    "stat", [b"", b"7 (sleep", b"7 (sleep) S 1 2 3", b"7 (sleep) " + b"x " * 30]
)
def test_a_stat_that_is_none_is_refused(stat: bytes) -> None:
    with pytest.raises(ProcError):
        proc.start_ticks(stat)
    for cut in (b"", b"7 (sleep) S", b"7 (sleep) S x"):
        with pytest.raises(ProcError):
            proc.parent(cut)


def test_signals_that_wait_are_those_of_both_masks() -> None:
    status = (
        b"Name:\tx\nSigQ:\t1/2\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000004000\nSigBlk:\t7\n"
    )
    assert proc.pending_signals(status) == 0x4001


@pytest.mark.parametrize("status", [b"", b"SigPnd:\t1\n", b"SigPnd:\tx\nShdPnd:\t1\n"])
def test_a_status_without_the_masks_is_an_error(status: bytes) -> None:
    with pytest.raises(ProcError):
        proc.pending_signals(status)

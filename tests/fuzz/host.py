"""Parsers of what the kernel, CRIU and its images say.

The container chooses names and numbers in it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pycriu.images import fdinfo_pb2, mm_pb2, vma_pb2

from checkpoint.criu import log, rpc
from checkpoint.criu import page_server as page_wire
from checkpoint.criu.images.mm import may_be_lazy
from checkpoint.criu.images.repair import with_expired_timers_armed
from checkpoint.criu.page_server import PAGE_SIZE, dst_id_of_process
from checkpoint.errors import ConversationLost, ImageError, NetworkError, ProcError
from checkpoint.host import inotify, proc
from checkpoint.memory.pager.missing import Missing
from checkpoint.memory.pager.uffd_copy import MESSAGE, REMAP, REMOVE, UNMAP, Event
from checkpoint.network import conntrack
from tests.fuzz.parser import MOST_BYTES, Parser


@contextlib.contextmanager
def file_of(data: bytes) -> Iterator[Path]:
    """Yield the path of a file with that content, in memory."""
    fd = os.memfd_create("fuzz")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def mountinfo(data: bytes) -> None:
    for line in os.fsdecode(data).split("\n"):
        found = proc.mount_in(line)
        assert os.fsencode(found.point).count(b"/") >= 0


def maps(data: bytes) -> None:
    for line in os.fsdecode(data).split("\n"):
        found = proc.mapping_in(line)
        assert found.start < found.end
        assert not found.path.startswith(" ")


def cgroup(data: bytes) -> None:
    for line in os.fsdecode(data).split("\n"):
        controllers, path = proc.cgroup_in(line)
        assert line.endswith(f"{controllers}:{path}")


def stat(data: bytes) -> None:
    state, flags = proc.state(data)
    assert state
    assert isinstance(flags, int)


def fields(data: bytes) -> None:
    with file_of(data) as path:
        for name, base in (("NSpid", 10), ("mnt_id", 10), ("flags", 8)):
            assert proc.number(path, name, base) is None or name.encode() in data
        assert "\n".join(proc.lines(path)) in (os.fsdecode(data), os.fsdecode(data)[:-1])


def criu_log(data: bytes) -> None:
    with file_of(data) as path:
        assert all(line.startswith("Error (") for line in log.errors(path))
        assert len(log.last_words(path)) <= 1
        assert len(log.runtime_errors(path)) <= log.MOST


def timers(data: bytes) -> None:
    mended = with_expired_timers_armed(data)
    assert with_expired_timers_armed(mended) == mended
    assert len(mended) < 2 * len(data) + 64


def memory_map(data: bytes) -> None:
    with file_of(data) as path:
        found = may_be_lazy(path)
    assert all(start < end for start, end in found)
    assert found == sorted(found)


class Sink:
    """A sink that adds up what it is given."""

    def __init__(self) -> None:
        self.size = 0

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None:
        page_wire.check_extent(dst_id, vaddr, pages)
        assert len(data) in (0, pages * PAGE_SIZE)
        assert len(data) <= page_wire.PIECE_BYTES
        self.size += len(data)


def page_server(data: bytes) -> None:
    """Read messages of a page server; the first byte says of which CRIU."""
    layout = page_wire.wire_struct(40100 if data[:1] == b"\0" else 40200)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.sendall(data[1:])
        theirs.shutdown(socket.SHUT_WR)
        sink = Sink()
        page_wire.serve(ours, layout, sink)
        assert sink.size < len(data) < MOST_BYTES


def rpc_messages(data: bytes) -> None:
    for parse in (rpc.parse_request, rpc.parse_response):
        with contextlib.suppress(ConversationLost):
            found = parse(data)
            assert rpc.kind_of(found)
            assert parse(found.SerializeToString()).type == found.type


def netlink(data: bytes) -> None:
    for _, body in conntrack.messages_in(data):
        entry = conntrack.attributes_in(body[conntrack.FAMILY.size :])
        assert sum(map(len, conntrack.addresses_in(entry))) <= 2 * len(data)


def inotify_events(data: bytes) -> None:
    assert sum(len(event.name) for event in inotify.events_in(data)) <= len(data)


def memory_events(data: bytes) -> None:
    """Read what a process does to its mappings while they are filled in (userfaultfd)."""
    missing = Missing.of([(0x1000_0000, 0x2000_0000), (0x4000_0000, 0x4000_1000)])
    for at in range(0, len(data) // MESSAGE.size * MESSAGE.size, MESSAGE.size):
        event = Event.unpack(data[at : at + MESSAGE.size])
        if event.kind == REMAP:
            missing.move(*event.arguments)
        elif event.kind in (REMOVE, UNMAP):
            missing.drop(*event.arguments[:2])
        missing.around(event.arguments[1], 1 << 16)


def _netlink(kind: int, body: bytes) -> bytes:
    return conntrack.HEADER.pack(conntrack.HEADER.size + len(body), kind, 0, 1, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _sized(message: bytes) -> bytes:
    return struct.pack("=I", len(message)) + message


_ADDRESSES = _attribute(
    1, _attribute(1, bytes((10, 0, 0, 1))) + _attribute(2, bytes((10, 0, 0, 2)))
)


def _timer() -> bytes:
    """Return files.img with a periodic timerfd that has expired."""
    entry: Any = fdinfo_pb2.file_entry(type=fdinfo_pb2.TIMERFD, id=7)
    zero = dict.fromkeys(
        ("flags", "clockid", "ticks", "settime_flags", "vsec", "vnsec", "insec"), 0
    )
    for name, value in {**zero, "id": 7, "isec": 1}.items():
        setattr(entry.tfd, name, value)
    for name in ("uid", "euid", "signum", "pid_type", "pid"):
        setattr(entry.tfd.fown, name, 0)
    return bytes(8) + _sized(entry.SerializeToString())


_NUMBERS = (
    *("start_code", "end_code", "start_data", "end_data", "start_stack", "start_brk", "brk"),
    *("arg_start", "arg_end", "env_start", "env_end"),
)
_MM = mm_pb2.mm_entry(
    **{f"mm_{name}": 0 for name in _NUMBERS},
    exe_file_id=1,
    vmas=[
        vma_pb2.vma_entry(
            start=number << 12,
            end=(number + 1) << 12,
            pgoff=0,
            shmid=0,
            prot=3,
            flags=0x22,
            status=513,
            fd=-1,
        )
        for number in (4, 5, 9)
    ],
).SerializeToString()


def _session(criu_version: int) -> bytes:
    layout, image = page_wire.wire_struct(criu_version), dst_id_of_process(7)
    return b"".join(
        (
            layout.pack(page_wire.OPEN2, 0, 0, image),
            layout.pack(page_wire.ADD_F | page_wire.PE_PRESENT << 16, 1, 0x7000, image),
            b"p" * PAGE_SIZE,
            layout.pack(page_wire.CLOSE, 0, 0, 0),
        )
    )


PARSERS = {
    "mountinfo": Parser(
        run=mountinfo,
        refuses=(ProcError,),
        seeds=(
            b"26 1 0:23 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/a",
            b"27 26 0:24 / /a\\040b\\134 ro - tmpfs  ro,size=64k",
        ),
    ),
    "maps": Parser(
        run=maps,
        refuses=(ProcError,),
        seeds=(
            b"7f00-7f01 rw-s 00000000 00:1b 123                        /a b\\012c (deleted)",
            b"7ffd0000-7ffe0000 rw-p 00000000 00:00 0 \n1000-2000 r-xp 0 00:00 0 [vdso]",
        ),
    ),
    "cgroup": Parser(
        run=cgroup, refuses=(ProcError,), seeds=(b"0::/a:b", b"4:cpu,cpuacct:/x\n1:name=systemd:/y")
    ),
    "stat": Parser(
        run=stat, refuses=(ProcError,), seeds=(b"7 (a) S (b) R 1 7 7 0 -1 4194304 116 0 0 0\n",)
    ),
    "proc-fields": Parser(
        run=fields,
        refuses=(ProcError,),
        seeds=(
            b"Name:\tx\\ny\nNSpid:\t77\t1\nSeccomp:\t0\n",
            b"pos:\t0\nflags:\t02100002\nmnt_id:\t15\n",
        ),
    ),
    "criu-log": Parser(
        run=criu_log,
        refuses=(),
        seeds=(b"(00.1) Error (a.c:1): no\n", b'{"level":"error","msg":"no"}\n{"level":"debug"}\n'),
    ),
    "files-image": Parser(run=timers, refuses=(ImageError,), seeds=(_timer(), bytes(8))),
    "mm-image": Parser(run=memory_map, refuses=(ImageError,), seeds=(bytes(8) + _sized(_MM),)),
    "page-server": Parser(
        run=page_server,
        refuses=(ImageError,),
        seeds=(b"\1" + _session(40200), b"\0" + _session(40100)),
    ),
    "criu-rpc": Parser(
        run=rpc_messages,
        refuses=(),
        seeds=(
            rpc.request("DUMP").SerializeToString(),
            rpc.dumped().SerializeToString(),
            b"\x08\x05\x10\x01",
        ),
    ),
    "conntrack": Parser(
        run=netlink,
        refuses=(NetworkError,),
        seeds=(
            _netlink(0x100, bytes((2, 0, 0, 0)) + _attribute(1, _ADDRESSES))
            + _netlink(3, bytes(4)),
        ),
    ),
    "inotify": Parser(
        run=inotify_events,
        refuses=(OSError,),
        seeds=(struct.pack("=iIII8s", 1, 8, 0, 8, b"a.img") * 2,),
    ),
    "memory-events": Parser(
        run=memory_events,
        refuses=(),
        seeds=(
            MESSAGE.pack(REMAP, 0x1100_0000, 0x5000_0000, 0x1000)
            + MESSAGE.pack(UNMAP, 0x1200_0000, 0x1300_0000, 0),
        ),
    ),
}

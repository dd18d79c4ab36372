"""Tests of checkpoint/criu/images/repair.py: only expired periodic timers are changed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from pycriu.images import fdinfo_pb2

from checkpoint.criu.images.repair import repaired, with_expired_timers_armed
from checkpoint.errors import ImageError

MAGICS = struct.pack("=II", 0x54564319, 0x56303138)


def timer(
    file_id: int, *, value: tuple[int, int], interval: tuple[int, int], ticks: int = 3
) -> bytes:
    """Return the file_entry of a timerfd, whose times are (seconds, nanoseconds).

    `ticks` is the number of expirations that were not read.
    """
    entry: Any = fdinfo_pb2.file_entry(type=fdinfo_pb2.TIMERFD, id=file_id)
    tfd = entry.tfd
    tfd.id, tfd.flags, tfd.clockid, tfd.ticks, tfd.settime_flags = file_id, 0x802, 1, ticks, 0
    tfd.vsec, tfd.vnsec = value
    tfd.isec, tfd.insec = interval
    tfd.fown.uid = tfd.fown.euid = tfd.fown.signum = tfd.fown.pid_type = tfd.fown.pid = 0
    return bytes(entry.SerializeToString())


def eventfd(file_id: int) -> bytes:
    entry: Any = fdinfo_pb2.file_entry(type=fdinfo_pb2.EVENTFD, id=file_id)
    efd = entry.efd
    efd.id, efd.flags, efd.counter = file_id, 2, 0
    efd.fown.uid = efd.fown.euid = efd.fown.signum = efd.fown.pid_type = efd.fown.pid = 0
    return bytes(entry.SerializeToString())


def image(*messages: bytes) -> bytes:
    return MAGICS + b"".join(struct.pack("=I", len(message)) + message for message in messages)


def messages_of(data: bytes) -> list[bytes]:
    found, offset = [], len(MAGICS)
    while offset < len(data):
        (size,) = struct.unpack_from("=I", data, offset)
        found.append(data[offset + 4 : offset + 4 + size])
        offset += 4 + size
    return found


EXPIRED_SECONDS = timer(1, value=(0, 0), interval=(2, 0))
EXPIRED_NANOSECONDS = timer(2, value=(0, 0), interval=(0, 5_000_000))
UNTOUCHED = {
    "one-shot expired": timer(3, value=(0, 0), interval=(0, 0)),
    "one-shot armed": timer(4, value=(5, 0), interval=(0, 0)),
    "periodic armed, seconds": timer(5, value=(1, 0), interval=(2, 0)),
    "periodic armed, nanoseconds": timer(6, value=(0, 7), interval=(0, 9)),
    "periodic, disarmed by the program": timer(8, value=(0, 0), interval=(2, 0), ticks=0),
    "another kind": eventfd(7),
    "no message of ours": b"\x12\x34 bytes that nobody looks into",
    "empty": b"",
}


@pytest.mark.parametrize("message", [EXPIRED_SECONDS, EXPIRED_NANOSECONDS])
def test_an_expired_periodic_timer_fires_again(message: bytes) -> None:
    expected: Any = fdinfo_pb2.file_entry.FromString(message)
    expected.tfd.vnsec = 1
    (found,) = messages_of(with_expired_timers_armed(image(message)))
    assert fdinfo_pb2.file_entry.FromString(found) == expected


@pytest.mark.parametrize("message", UNTOUCHED.values(), ids=list(UNTOUCHED))
def test_other_entries_are_the_same_to_the_byte(message: bytes) -> None:
    assert with_expired_timers_armed(image(message)) == image(message)


def test_all_entries_keep_their_order() -> None:
    before = [eventfd(1), EXPIRED_SECONDS, *UNTOUCHED.values(), EXPIRED_NANOSECONDS, eventfd(2)]
    data = with_expired_timers_armed(image(*before))
    assert data[: len(MAGICS)] == MAGICS
    after = messages_of(data)
    assert len(after) == len(before)
    assert [
        index for index, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]
    ] == [
        1,
        len(before) - 2,
    ]
    assert with_expired_timers_armed(data) == data


@pytest.mark.parametrize("cut", [1, 20])
def test_a_cut_message_is_refused(cut: int) -> None:
    with pytest.raises(ImageError, match="damaged"):
        with_expired_timers_armed(image(eventfd(1), EXPIRED_SECONDS)[:-cut])


@pytest.mark.parametrize("tail", [b"\x01", b"\x01\0\0"])
def test_a_cut_length_is_refused(tail: bytes) -> None:
    with pytest.raises(ImageError, match="damaged"):
        with_expired_timers_armed(image(eventfd(1)) + tail)


def test_a_damaged_timer_is_refused() -> None:
    with pytest.raises(ImageError, match="damaged"):
        with_expired_timers_armed(image(EXPIRED_SECONDS[:-3]))


def test_each_file_is_repaired_by_its_name(tmp_path: Path) -> None:
    for name in ("files.img", "core-1.img", "mm-1.img"):
        (tmp_path / name).write_bytes(image(EXPIRED_SECONDS))
    assert repaired(tmp_path / "mm-1.img", waiting) == image(EXPIRED_SECONDS)
    assert (
        repaired(tmp_path / "files.img", waiting)
        == with_expired_timers_armed(image(EXPIRED_SECONDS))
        != image(EXPIRED_SECONDS)
    )
    assert repaired(tmp_path / "core-1.img", {1: 0}.__getitem__) == image(EXPIRED_SECONDS)
    with pytest.raises(ImageError, match=r"core-1\.img"):
        repaired(tmp_path / "core-1.img", lambda _: 1)


def waiting(_: int) -> int:
    raise AssertionError("no core image")


def test_a_timer_that_lacks_something_is_refused() -> None:
    """protobuf parses such a message, and could not write it again."""
    entry = "08111007621e08feefffe5f5f7ffef001800200028002000282a30003800400048015000"
    with pytest.raises(ImageError, match="lacks"):
        with_expired_timers_armed(image(bytes.fromhex(entry)))

"""Tests of migrate/network/late_frames.py: frames stay whole, whatever is cut off."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from migrate.network.late_frames import Frame, pack, split, unpack
from migrate.wire.values import LateFrame

FRAMES = some.lists(some.tuples(some.integers(0, 63), some.binary(max_size=50)), max_size=8)


def plain(frames: list[Frame]) -> list[tuple[int, bytes]]:
    return [(index, bytes(frame)) for index, frame in frames]


@given(FRAMES, some.integers(0, 500))
def test_frames_come_out_as_they_went_in(frames: list[tuple[int, bytes]], cut: int) -> None:
    data = pack(frames)
    assert plain(list(unpack(data))) == frames
    found = plain(list(unpack(data[:cut])))
    assert found == frames[: len(found)]


@given(FRAMES)
def test_the_payload_of_a_message_is_split_into_frames(frames: list[tuple[int, bytes]]) -> None:
    told = [LateFrame(index, len(frame)) for index, frame in frames]
    assert plain(list(split(told, b"".join(frame for _, frame in frames)))) == frames

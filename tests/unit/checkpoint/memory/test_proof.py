"""Tests of checkpoint/memory/proof.py: both hosts draw the same pages, and one wrong byte shows."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.memory import proof
from checkpoint.memory.proof import CHUNK_BYTES, Piece
from checkpoint.memory.ranges import Range, union
from checkpoint.memory.tracking.write_protection import PAGE_SIZE

page_ranges = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 400)), max_size=5).map(
    lambda found: union(
        [(start * PAGE_SIZE, (start + count) * PAGE_SIZE) for start, count in found], []
    )
)
images = st.dictionaries(st.integers(0, 9), page_ranges, max_size=4)


def covered(pieces: list[Piece], image: int) -> list[Range]:
    """Return the ranges of an image that pieces cover."""
    return union([(piece.start, piece.end) for piece in pieces if piece.dst_id == image], [])


@given(images)
def test_everything_covers_each_page_once(found: dict[int, list[Range]]) -> None:
    pieces = list(proof.everything(found))
    assert {image: covered(pieces, image) for image in found} == found
    assert sum(piece.end - piece.start for piece in pieces) == proof.page_count(found) * PAGE_SIZE
    assert all(piece.end - piece.start <= CHUNK_BYTES for piece in pieces)


@given(images, st.binary(min_size=16, max_size=16))
def test_a_sample_is_of_pages_that_are_there(found: dict[int, list[Range]], seed: bytes) -> None:
    pieces = list(proof.sample(found, seed))
    assert len(pieces) == (proof.SAMPLE_PAGES if proof.page_count(found) else 0)
    assert pieces == list(proof.sample(dict(reversed(found.items())), seed)), (
        "the order of images does not matter"
    )
    for piece in pieces:
        assert piece.end - piece.start == PAGE_SIZE
        assert any(start <= piece.start < end for start, end in found[piece.dst_id])


def test_each_page_is_as_likely_as_any_other() -> None:
    found = {1: [(0, 3 * PAGE_SIZE), (8 * PAGE_SIZE, 9 * PAGE_SIZE)], 2: [(0, 4 * PAGE_SIZE)]}
    seen = Counter((piece.dst_id, piece.start) for piece in proof.sample(found, b"seed", 8000))
    assert len(seen) == 8
    assert all(800 < count < 1200 for count in seen.values())


def test_another_seed_is_another_sample() -> None:
    found = {1: [(0, 1000 * PAGE_SIZE)]}
    assert list(proof.sample(found, b"a")) != list(proof.sample(found, b"b"))


@given(st.integers(0, 3 * CHUNK_BYTES - 1))
def test_one_wrong_byte_changes_one_digest(place: int) -> None:
    content = bytearray(3 * CHUNK_BYTES)
    found = {1: [(0, len(content))]}

    def read(image: int, address: int, view: memoryview) -> bool:
        view[:] = content[address : address + len(view)]
        return True

    right = [digest for _, digest in proof.digests(proof.everything(found), read, {})]
    content[place] ^= 0x10
    wrong = [digest for _, digest in proof.digests(proof.everything(found), read, {})]
    assert [index for index in range(3) if right[index] != wrong[index]] == [place // CHUNK_BYTES]


def test_what_cannot_be_read_has_no_digest() -> None:
    found = {1: [(0, PAGE_SIZE)], 2: [(0, PAGE_SIZE)]}
    made = list(proof.digests(proof.everything(found), lambda image, address, view: image == 2, {}))
    assert [(piece.dst_id, digest is None) for piece, digest in made] == [(1, True), (2, False)]


@pytest.mark.parametrize(
    ("wrong", "sampled", "total", "chance"),
    [(0, 128, 10, 1.0), (10, 1, 10, 0.0), (1, 1, 4, 0.75), (5, 3, 0, 0.0)],
)
def test_the_chance_to_miss_wrong_pages(
    wrong: int, sampled: int, total: int, chance: float
) -> None:
    assert proof.chance_to_miss(wrong, sampled, total) == pytest.approx(chance)


def digests(content: bytes, left_out: proof.Areas) -> list[bytes | None]:
    def read(image: int, address: int, view: memoryview) -> bool:
        view[:] = content[address : address + len(view)]
        return True

    pieces = [proof.Piece(dst_id=1, start=at, end=at + 8192) for at in range(0, len(content), 8192)]
    return [digest for _, digest in proof.digests(iter(pieces), read, left_out)]


@pytest.mark.parametrize("at", [0, 4064, 8192, 12000, 16352])
def test_what_is_left_out_counts_as_zeros_and_nothing_else(at: int) -> None:
    before = os.urandom(16384)
    after = before[:at] + bytes(byte ^ 1 for byte in before[at : at + 32]) + before[at + 32 :]
    other = [(100, 32), (at, 32), (20000, 32)]
    assert digests(before, {}) != digests(after, {})
    assert digests(before, {1: sorted(other)}) == digests(after, {1: sorted(other)})
    assert digests(before, {2: sorted(other)}) != digests(after, {2: sorted(other)})
    assert digests(before, {1: sorted(other)}) != digests(after[:-1] + b"?", {1: [(at, 31)]})

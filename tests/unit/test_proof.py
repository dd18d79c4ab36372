"""checkpoint/memory/proof.py: both ends pick the same pages, all of them alike, and one wrong byte shows."""

from __future__ import annotations

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
    return union([(piece.start, piece.end) for piece in pieces if piece.dst_id == image], [])


@given(images)
def test_everything_is_everything_once(found: dict[int, list[Range]]) -> None:
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

"""Tests of migrate/memory/batches.py: batches of pages, from their packing to their unpacking."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint import schema
from checkpoint.criu.page_server import PAGE_SIZE, PE_LAZY, PE_PARENT, PE_PRESENT, PIECE_BYTES
from checkpoint.criu.page_server import dst_id_of_process as image_of
from checkpoint.errors import DataInvalid, ImageError
from checkpoint.host import processes
from migrate.memory import batches, encoding
from migrate.memory import batches as page_batches
from migrate.memory.batches import MAX_EXTENTS, MAX_PAGES, PageBatches, Processes
from migrate.memory.copying import Ends
from migrate.wire.failures import AgentGone
from migrate.wire.values import PageExtent
from tests.unit.helpers.obedient import PAGES, Child
from tests.unit.migrate.memory.carrier import Carrier

ZERO, BASE = bytes(PAGE_SIZE), 0x7F00_0000_0000
#: (process, first page, content byte of each page); a byte of 0 makes a page of zeros.
Put = tuple[int, int, list[int]]
puts = st.lists(
    st.tuples(
        st.integers(1, 3), st.integers(0, 5000), st.lists(st.integers(0, 3), min_size=1, max_size=9)
    )
)


@given(puts)
def test_what_is_packed_is_unpacked_in_order(given_puts: list[Put]) -> None:
    carrier = Carrier()
    batches = PageBatches(carrier)
    expected = []
    for process, first, contents in given_puts:
        data = b"".join(bytes([content]) * PAGE_SIZE for content in contents)
        batches.add(process, BASE + first * PAGE_SIZE, memoryview(data))
        for page, content in enumerate(contents):
            expected.append(
                (process << 8 | 1, BASE + (first + page) * PAGE_SIZE, bytes([content]) * PAGE_SIZE)
            )
    batches.flush()
    assert carrier.pages() == expected
    assert batches.pages == len(expected)
    assert batches.pages_zero == sum(content == ZERO for _, _, content in expected)
    assert carrier.drained == 1
    sent = sum(len(data) for _, data in carrier.batches)
    assert batches.data_bytes == sent == (batches.pages - batches.pages_zero) * PAGE_SIZE


def test_a_page_of_zeros_but_for_one_byte_is_no_page_of_zeros() -> None:
    pages = [bytearray(PAGE_SIZE) for _ in range(3)]
    pages[0][-1] = pages[1][0] = pages[2][PAGE_SIZE // 2] = 1
    carrier = Carrier()
    batches = PageBatches(carrier)
    batches.add(1, BASE, memoryview(b"".join(pages)))
    batches.flush()
    assert batches.pages_zero == 0
    assert [content for _, _, content in carrier.pages()] == [bytes(page) for page in pages]


def test_large_transfers_are_cut_into_batches() -> None:
    carrier = Carrier()
    batches = PageBatches(carrier, into_images=True)
    piece = bytes(range(256)) * (PIECE_BYTES // 256)
    for index in range(3):
        batches.add(1, BASE + index * PIECE_BYTES, memoryview(piece))
        batches.add(1, BASE + (index + 10) * PIECE_BYTES, memoryview(ZERO))
    batches.flush()
    assert len(carrier.batches) == 3
    assert carrier.into_images == {True}
    assert len(carrier.pages()) == 3 * (PIECE_BYTES // PAGE_SIZE + 1)


def test_many_small_extents_are_cut_into_batches() -> None:
    carrier = Carrier()
    batches = PageBatches(carrier)
    for page in range(3 * MAX_EXTENTS):
        batches.add(1, BASE + 2 * page * PAGE_SIZE, memoryview(bytes([page % 2]) * PAGE_SIZE))
    batches.flush()
    assert all(len(extents) <= MAX_EXTENTS for extents, _ in carrier.batches)
    assert carrier.into_images == {False}
    assert [vaddr for _, vaddr, _ in carrier.pages()] == [
        BASE + 2 * n * PAGE_SIZE for n in range(3 * MAX_EXTENTS)
    ]


def test_entries_without_bytes_keep_their_place() -> None:
    carrier = Carrier()
    batches = PageBatches(carrier)
    page = memoryview(b"a" * PAGE_SIZE)
    batches.extent(0x101, BASE, 1, PE_PRESENT, page)
    batches.extent(0x101, BASE + PAGE_SIZE, 300, PE_PARENT, page[:0])
    batches.extent(0x101, BASE + 301 * PAGE_SIZE, 2, PE_LAZY, page[:0])
    batches.extent(0x202, BASE, 1, PE_PRESENT, page)
    batches.flush()
    assert carrier.extents() == [
        (0x101, BASE, 1, PE_PRESENT, bytes(page)),
        (0x101, BASE + PAGE_SIZE, 300, PE_PARENT, b""),
        (0x101, BASE + 301 * PAGE_SIZE, 2, PE_LAZY, b""),
        (0x202, BASE, 1, PE_PRESENT, bytes(page)),
    ]
    assert batches.pages == 2


def test_what_is_forgotten_is_forgotten_between_what_came_before_and_after() -> None:
    carrier = Carrier()
    batches = PageBatches(carrier)
    batches.add(1, BASE, memoryview(b"a" * PAGE_SIZE))
    batches.forget(1)
    batches.forget(2)
    batches.add(1, BASE, memoryview(b"b" * PAGE_SIZE))
    batches.flush()
    batches.add(1, BASE, memoryview(b"c" * PAGE_SIZE))
    batches.flush()
    assert [data[:1] for _, data in carrier.batches] == [b"a", b"b", b"c"]
    assert carrier.forgotten == [[], [1, 2], []]


def test_what_is_forgotten_is_forgotten_though_no_pages_follow() -> None:
    carrier = Carrier()
    batches = PageBatches(carrier)
    batches.forget(1)
    batches.forget(2)
    batches.flush()
    batches.flush()
    assert (carrier.batches, carrier.forgotten) == ([([], b"")], [[1, 2]])
    assert carrier.extents() == []


class Losing(Carrier):
    """A carrier that tells of one of the `losses` each time that all was handed over."""

    def __init__(self, *losses: list[PageExtent]) -> None:
        super().__init__()
        self._losses = list(losses)

    def drain(self) -> None:
        super().drain()
        self.lost = self._losses.pop(0) if self._losses else []


def lost(child: Child, first: int, count: int = 1, *, zero: bool = False) -> PageExtent:
    """Return an extent of a child's memory, by the number of its first page."""
    vaddr = child.address + first * PAGE_SIZE
    return PageExtent(image_of(child.pid), vaddr, count, PE_PRESENT, zero)


def sent_again(
    child: Child, carrier: Carrier, processes: Callable[[], Processes] | None = None
) -> dict[int, int]:
    """Flush batches of which some are lost, and return what is sent in their place.

    Of each page of the child's that is its number and its first byte, which no page has twice.
    """
    image, alive = image_of(child.pid), (child.pid, child.pid)
    batches = PageBatches(carrier, processes=processes or (lambda: {image: alive}))
    batches.forget(1)
    batches.flush()
    assert (carrier.batches[0], carrier.forgotten[0]) == (([], b""), [1])
    assert not any(carrier.forgotten[1:])
    found = carrier.pages()
    pages = {(vaddr - child.address) // PAGE_SIZE: content[0] for _, vaddr, content in found}
    assert all(dst_id == image for dst_id, _, _ in found)
    assert len(pages) == len(found)
    return pages


def test_what_was_lost_is_sent_as_it_is_now(child: Child) -> None:
    child.do("fill(5, 251)")
    carrier = Losing([lost(child, 2, 2), lost(child, 5), lost(child, 3, 2)])
    assert sent_again(child, carrier) == {2: 3, 3: 4, 4: 5, 5: 251}
    assert (len(carrier.batches), carrier.drained) == (2, 2)


def test_what_is_lost_again_is_sent_again(child: Child) -> None:
    carrier = Losing([lost(child, 2)], [lost(child, 3)], [lost(child, 4), lost(child, 6)])
    assert sent_again(child, carrier) == {2: 3, 3: 4, 4: 5, 6: 7}
    assert (len(carrier.batches), carrier.drained) == (4, 4)


def test_pages_are_zeros_in_the_place_of_lost_ones_if_they_are_now(child: Child) -> None:
    child.do("fill(8, 0)")
    carrier = Losing([lost(child, 7, zero=True), lost(child, 8)])
    assert sent_again(child, carrier) == {7: 8, 8: 0}
    assert carrier.batches[1][0] == [lost(child, 7), lost(child, 8, zero=True)]


def test_lost_pages_that_are_unmapped_now_are_left_out(child: Child) -> None:
    child.do("libc.munmap(ctypes.c_void_p(address + 3 * PAGE_BYTES), PAGE_BYTES)")
    assert sent_again(child, Losing([lost(child, 2, 3)])) == {2: 3, 4: 5}


def test_of_lost_pages_of_a_process_that_is_gone_nothing_is_sent(child: Child) -> None:
    gone = Child()
    gone.end()
    listed = {image_of(pid): (pid, pid) for pid in (gone.pid, child.pid)}
    carrier = Losing([lost(gone, 2), lost(child, 2)], [lost(gone, 2)])
    assert sent_again(child, carrier, lambda: listed) == {2: 3}
    assert (len(carrier.batches), carrier.drained) == (2, 3)
    assert sent_again(child, Losing([lost(child, 2)]), dict) == {}


def test_lost_pages_are_those_of_the_processes_that_a_container_has_now(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Child()
    gone.end()
    monkeypatch.setattr(processes, "tree_of", lambda pid: [gone.pid, pid])
    ends: Any = SimpleNamespace(pid=child.pid)
    found = Ends.processes(ends)
    assert found == {image_of(child.pid): (child.pid, child.pid)}
    assert sent_again(child, Losing([lost(gone, 2), lost(child, 2)]), lambda: found) == {2: 3}


def test_a_target_that_is_gone_is_told_while_lost_pages_are_read(child: Child) -> None:
    errors = [AgentGone("the link is lost", "", None)]

    class Gone(Losing):
        def submit(self, *batch: Any, **told: Any) -> None:
            if self.drained and errors:
                raise errors.pop()
            super().submit(*batch, **told)

    with pytest.raises(AgentGone):
        sent_again(child, Gone([lost(child, 0, PAGES)]))


def test_no_batch_is_sent_for_no_pages() -> None:
    carrier = Carrier()
    batches = PageBatches(carrier)
    batches.flush()
    batches.flush()
    assert carrier.batches == []


def unpack(
    extents: Any, payload: bytes, *, encoded: str = encoding.RAW, digest: str | None = None
) -> list[Any]:
    """Return the extents of a batch whose `extents` are JSON, as they come off the wire."""
    read = schema.read(tuple[PageExtent, ...], extents)
    return list(batches.unpack(read, payload, encoded, digest or batches.digest_of(payload)))


@given(st.integers(0, 2 * PAGE_SIZE - 1), st.integers(0, 7))
def test_one_changed_bit_is_noticed(position: int, bit: int) -> None:
    payload = bytearray(b"a" * 2 * PAGE_SIZE)
    digest = batches.digest_of(bytes(payload))
    payload[position] ^= 1 << bit
    with pytest.raises(ImageError, match="damaged"):
        unpack([[0x101, BASE, 2, PE_PRESENT, False]], bytes(payload), digest=digest)


@pytest.mark.parametrize("wrong", [-PAGE_SIZE, -1, 1, PAGE_SIZE])
def test_bytes_too_many_or_too_few_are_refused(wrong: int) -> None:
    with pytest.raises(ImageError):
        unpack([[0x101, BASE, 2, PE_PRESENT, False]], bytes(2 * PAGE_SIZE + wrong))


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(ImageError, match="lzma"):
        unpack([], b"", encoded="lzma")


@pytest.mark.parametrize("encoded", encoding.AVAILABLE)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=4))
def test_every_encoding_gives_back_what_it_was_given(encoded: str, pages: list[int]) -> None:
    data = b"".join(bytes([page]) * PAGE_SIZE for page in pages)
    payload = bytes(encoding.encode(memoryview(data), encoded))
    extents = [[0x101, BASE, len(pages), PE_PRESENT, False]]
    found = unpack(extents, payload, encoded=encoded, digest=batches.digest_of(data))
    assert b"".join(bytes(extent[4]) for extent in found) == data


@pytest.mark.parametrize("pages", [1, 3])
def test_what_decompresses_to_more_or_less_is_refused(pages: int) -> None:
    payload = bytes(encoding.encode(memoryview(b"a" * 2 * PAGE_SIZE), encoding.ZSTD))
    with pytest.raises(ImageError):
        unpack([[0x101, BASE, pages, PE_PRESENT, False]], payload, encoded=encoding.ZSTD)


def test_a_decompression_bomb_is_not_unpacked() -> None:
    payload = bytes(encoding.encode(memoryview(bytes(1 << 28)), encoding.ZSTD))
    assert len(payload) < 1 << 16
    with pytest.raises(ImageError, match="over the bound"):
        unpack([[0x101, BASE, 1 << 16, PE_PRESENT, False]], payload, encoded=encoding.ZSTD)


def test_what_does_not_decompress_is_refused() -> None:
    with pytest.raises(ImageError, match="decompress"):
        unpack([[0x101, BASE, 1, PE_PRESENT, False]], b"no frame of zstd", encoded=encoding.ZSTD)


@pytest.mark.parametrize(
    "extent",
    [
        7,
        None,
        "text!",
        [],
        [0x101, BASE, 1, PE_PRESENT],
        [0x101, BASE, 1, PE_PRESENT, True, 0],
        ["a", BASE, 1, PE_PRESENT, True],
        [0x101, None, 1, PE_PRESENT, True],
        [0x101, BASE, "1", PE_PRESENT, True],
        [0x101, BASE, 1.0, PE_PRESENT, True],
        [0x101, BASE, 1, [], False],
        [0x101, BASE, -1, PE_PRESENT, False],
        [0x101, BASE, -1, PE_PRESENT, True],
        [0x101, BASE, 0.5, PE_PRESENT, True],
        [0x101, BASE, 0, PE_PRESENT, True],
        [0x101, BASE, 1, 8, False],
        [0x101, BASE, 1, PE_LAZY, True],
        [0x101, BASE + 1, 1, PE_PRESENT, True],
        [0x101, 1 << 58, 1, PE_PRESENT, True],
        [0x101, (1 << 57) - PAGE_SIZE, 2, PE_PRESENT, True],
        [0x103, BASE, 1, PE_PRESENT, True],
        [1 << 64 | 1, BASE, 1, PE_PRESENT, True],
    ],
    ids=json.dumps,
)
def test_an_extent_that_is_not_as_declared_is_refused(extent: Any) -> None:
    with pytest.raises(DataInvalid):
        unpack([extent], b"")


def test_more_zeros_than_a_batch_may_have_are_refused_before_one_is_made() -> None:
    for extents in (
        [[0x101, 0, 1 << 40, PE_PRESENT, True]],
        [[0x101, BASE, MAX_PAGES // 2 + 1, PE_PRESENT, True]] * 2,
    ):
        with pytest.raises(ImageError, match="over the bound"):
            unpack(extents, b"")


def test_zeros_are_made_as_they_are_taken() -> None:
    extents = (PageExtent(0x101, BASE, MAX_PAGES, PE_PRESENT, True),)
    tracemalloc.start()
    try:
        taken = sum(
            pages
            for _, _, pages, _, _ in batches.unpack(
                extents, b"", encoding.RAW, batches.digest_of(b"")
            )
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken == MAX_PAGES
    assert peak < 1 << 16


def test_no_batch_has_more_zeros_than_may_be_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_batches, "MAX_PAGES", 10)
    carrier = Carrier()
    batches = PageBatches(carrier)
    for index in range(7):
        batches.add(1, BASE + index * (4 * PAGE_SIZE), memoryview(bytes(4 * PAGE_SIZE)))
    batches.flush()
    assert [sum(extent.pages for extent in extents) for extents, _ in carrier.batches] == [
        8,
        8,
        8,
        4,
    ]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 700])
def test_long_runs_of_zeros_come_in_pieces(size: int) -> None:
    found = unpack([[0x101, BASE, size, PE_PRESENT, True]], b"")
    assert sum(pages for _, _, pages, _, _ in found) == size
    at = BASE
    for _, vaddr, pages, _, data in found:
        assert vaddr == at
        assert bytes(data) == bytes(pages * PAGE_SIZE)
        at += pages * PAGE_SIZE


@given(st.lists(st.booleans(), max_size=20))
def test_split_zeros_is_a_partition(zero: list[bool]) -> None:
    data = memoryview(b"".join(bytes(PAGE_SIZE) if z else b"x" * PAGE_SIZE for z in zero))
    found = list(batches.split_zeros(data))
    assert [is_zero for _, count, is_zero in found for _ in range(count)] == zero
    assert [first for first, _, _ in found] == [
        sum(count for _, count, _ in found[:n]) for n in range(len(found))
    ]
    assert all(a[2] != b[2] for a, b in itertools.pairwise(found))

"""checkpoint/images/batch.py and migrate/page_batches.py: what is sent, and that it unpacks to the same pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.criu.page_wire import PAGE_SIZE, PE_LAZY, PE_PRESENT, PIECE_BYTES, TYPE_PROCESS
from checkpoint.errors import ImageError
from checkpoint.images import batch
from migrate import protocol
from migrate.agent.client import AgentClient
from migrate.page_batches import MAX_EXTENTS, PageBatches

DST = 7 << 8 | TYPE_PROCESS
VADDR = 0x7F00_0000_0000
ZERO = bytes(PAGE_SIZE)
#: A number per page: 0 is a zero page, and 2 one that is not zero only at its end.
contents = st.lists(st.integers(0, 3), max_size=40)


def page(value: int) -> bytes:
    return ZERO[:-1] + b"\x02" if value == 2 else bytes([value]) * PAGE_SIZE


def pages(values: Sequence[int]) -> memoryview:
    return memoryview(b"".join(map(page, values)))


class Recorder:
    """An agent that keeps what it is sent: the message and the payload as it was at that moment."""

    def __init__(self) -> None:
        self.batches: list[tuple[protocol.Pages, bytes]] = []

    def stream(self, message: protocol.Pages, parts: Sequence[bytes | memoryview] = ()) -> None:
        protocol.encode(message)
        self.batches.append((message, b"".join(parts)))

    def unpacked(self) -> list[tuple[int, int, int, int, bytes]]:
        return [
            (dst_id, vaddr, count, flags, bytes(data))
            for message, payload in self.batches
            for dst_id, vaddr, count, flags, data in batch.unpack(
                message.extents, payload, message.encoding, message.digest
            )
        ]


def batches_to(agent: Recorder, **options: Any) -> PageBatches:
    return PageBatches(cast(AgentClient, agent), **options)


@given(contents)
def test_runs_are_zero_and_not_in_turn(values: list[int]) -> None:
    runs = list(batch.split_zeros(pages(values)))
    assert [zero for _, count, zero in runs for _ in range(count)] == [value == 0 for value in values]
    assert [first for first, _, _ in runs] == [sum(count for _, count, _ in runs[:i]) for i in range(len(runs))]
    assert all(one[2] != other[2] for one, other in zip(runs, runs[1:], strict=False))  # noqa: RUF007


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), contents.filter(len)), max_size=8))
def test_unpacking_gives_the_same_pages_in_order(extents: list[tuple[int, list[int]]]) -> None:
    agent = Recorder()
    batches = batches_to(agent)
    sent, vaddr = [], VADDR
    for gap, values in extents:
        vaddr += gap * PAGE_SIZE
        batches.extent(DST, vaddr, len(values), PE_PRESENT, pages(values))
        sent += [(vaddr + index * PAGE_SIZE, page(value)) for index, value in enumerate(values)]
        vaddr += len(values) * PAGE_SIZE
    batches.flush()
    got = []
    for dst_id, start, count, flags, data in agent.unpacked():
        assert (dst_id, flags, len(data)) == (DST, PE_PRESENT, count * PAGE_SIZE)
        got += [(start + offset, data[offset : offset + PAGE_SIZE]) for offset in range(0, len(data), PAGE_SIZE)]
    assert got == sent
    zeros = sum(values.count(0) for _, values in extents)
    assert (batches.pages, batches.pages_zero) == (len(sent), zeros)
    assert batches.sent_bytes == (len(sent) - zeros) * PAGE_SIZE == sum(len(p) for _, p in agent.batches)


def test_zero_pages_carry_no_bytes() -> None:
    agent = Recorder()
    batches = batches_to(agent, final=True)
    batches.add(7, VADDR, pages([0, 0, 1, 0]))
    batches.flush()
    ((message, payload),) = agent.batches
    assert message.extents == [
        [DST, VADDR, 2, PE_PRESENT, True],
        [DST, VADDR + 2 * PAGE_SIZE, 1, PE_PRESENT, False],
        [DST, VADDR + 3 * PAGE_SIZE, 1, PE_PRESENT, True],
    ]
    assert payload == page(1)
    assert message.final


def test_long_runs_of_zeros_unpack_in_bounded_pieces() -> None:
    digest = batch.digest_of(b"")
    found = list(batch.unpack([[DST, VADDR, 10_000, PE_PRESENT, True]], b"", batch.RAW, digest))
    assert sum(count for _, _, count, _, _ in found) == 10_000
    expected = VADDR
    for _, vaddr, count, _, data in found:
        assert (vaddr, len(data)) == (expected, count * PAGE_SIZE)
        assert len(data) <= PIECE_BYTES
        assert not any(bytes(data))
        expected += len(data)


def test_absent_extents_keep_their_place() -> None:
    agent = Recorder()
    batches = batches_to(agent)
    batches.extent(DST, VADDR, 1, PE_PRESENT, pages([1]))
    batches.extent(DST, VADDR + PAGE_SIZE, 500, PE_LAZY, memoryview(b""))
    batches.extent(DST, VADDR + 501 * PAGE_SIZE, 1, PE_PRESENT, pages([3]))
    batches.flush()
    assert agent.unpacked() == [
        (DST, VADDR, 1, PE_PRESENT, page(1)),
        (DST, VADDR + PAGE_SIZE, 500, PE_LAZY, b""),
        (DST, VADDR + 501 * PAGE_SIZE, 1, PE_PRESENT, page(3)),
    ]
    assert batches.pages == 2


def test_a_full_batch_is_sent() -> None:
    agent, progress = Recorder(), list[int]()
    batches = batches_to(agent, progress=progress.append)
    most = PIECE_BYTES // PAGE_SIZE
    batches.add(7, VADDR, pages([1] * (most - 1)))
    batches.add(7, VADDR + most * PAGE_SIZE, pages([3]))
    assert agent.batches == []
    batches.add(7, VADDR + 2 * most * PAGE_SIZE, pages([1]))
    assert [len(payload) for _, payload in agent.batches] == [PIECE_BYTES]
    batches.add(7, VADDR + 4 * most * PAGE_SIZE, pages([1] * most))
    batches.flush()
    batches.flush()
    assert [len(payload) for _, payload in agent.batches] == [PIECE_BYTES, PAGE_SIZE, PIECE_BYTES]
    assert batches.count == 3
    assert progress == [PIECE_BYTES, PIECE_BYTES + PAGE_SIZE, 2 * PIECE_BYTES + PAGE_SIZE]


@pytest.mark.parametrize("value", [0, 1])
def test_a_batch_of_many_extents_is_sent(value: int) -> None:
    agent = Recorder()
    batches = batches_to(agent)
    count = 2 * MAX_EXTENTS + 1
    for index in range(count):
        # Absent ones among them: pages alone would fill a batch before.
        if index % 8:
            batches.extent(DST, VADDR + index * PAGE_SIZE, 1, PE_LAZY, memoryview(b""))
        else:
            batches.add(7, VADDR + index * PAGE_SIZE, pages([value]))
    batches.flush()
    assert [len(message.extents) for message, _ in agent.batches] == [MAX_EXTENTS, MAX_EXTENTS, 1]
    found = agent.unpacked()
    assert [extent[1] for extent in found] == [VADDR + index * PAGE_SIZE for index in range(count)]
    assert {extent[4] for extent in found if extent[3] == PE_PRESENT} == {page(value)}


def test_nothing_gathered_is_not_sent() -> None:
    agent = Recorder()
    batches = batches_to(agent)
    batches.flush()
    assert (agent.batches, batches.count) == ([], 0)


def unpack(count: int, payload: bytes, encoding: str = batch.RAW, digest: str | None = None) -> None:
    digest = batch.digest_of(payload) if digest is None else digest
    list(batch.unpack([[DST, VADDR, count, PE_PRESENT, False]], payload, encoding, digest))


def test_damage_is_found() -> None:
    damaged = bytearray(page(1))
    damaged[100] ^= 1
    with pytest.raises(ImageError, match="damaged"):
        unpack(1, bytes(damaged), digest=batch.digest_of(page(1)))
    with pytest.raises(ImageError, match="damaged"):
        unpack(1, page(1), digest="")


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(ImageError, match="encoding"):
        unpack(1, page(1), encoding="zstd")


@pytest.mark.parametrize("size", [PAGE_SIZE + 1, 2 * PAGE_SIZE])
def test_too_many_bytes_are_refused(size: int) -> None:
    with pytest.raises(ImageError, match="too many"):
        unpack(1, bytes(size))


@pytest.mark.parametrize("size", [0, PAGE_SIZE, 2 * PAGE_SIZE - 1])
def test_too_few_bytes_are_refused(size: int) -> None:
    with pytest.raises(ImageError):
        unpack(2, bytes(size))

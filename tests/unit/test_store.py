"""checkpoint/memory/store.py against a dictionary of pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.criu.page_wire import PAGE_SIZE, PE_LAZY, PE_PRESENT
from checkpoint.errors import ImageError
from checkpoint.images.pagemap import Entry, Pagemap
from checkpoint.memory.store import PageStore

PIDS = (1, 42)
puts = st.lists(
    st.tuples(st.sampled_from(PIDS), st.integers(0, 40), st.integers(1, 8), st.integers(0, 240)), max_size=30
)
Put = tuple[int, int, int, int]


def page(value: int) -> bytes:
    return bytes([value % 256]) * PAGE_SIZE


def put(store: PageStore, pid: int, first: int, *values: int) -> None:
    """Put pages, the first of number `first`, in a buffer that is used again afterwards."""
    data = bytearray(b"".join(map(page, values)))
    store.put(pid, first * PAGE_SIZE, memoryview(data))
    data[:] = bytes(len(data))


def get(store: PageStore, pid: int, first: int, pages: int) -> bytes:
    return b"".join(store.get(pid, first * PAGE_SIZE, pages))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PageStore]:
    directory = tmp_path / "store"
    directory.mkdir()
    with PageStore(directory) as store:
        yield store


@settings(deadline=None)
@given(puts)
def test_every_page_has_its_newest_content(sequence: list[Put]) -> None:
    newest: dict[tuple[int, int], bytes] = {}
    with TemporaryDirectory() as directory, PageStore(Path(directory)) as store:
        for pid, first, pages, value in sequence:
            values = [value + index for index in range(pages)]
            put(store, pid, first, *values)
            newest |= {(pid, first + index): page(number) for index, number in enumerate(values)}
        for (pid, number), content in newest.items():
            assert get(store, pid, number, 1) == content
            run = 1
            while (pid, number + run) in newest:
                run += 1
            assert get(store, pid, number, run) == b"".join(newest[pid, number + index] for index in range(run))
            with pytest.raises(ImageError, match="never came"):
                get(store, pid, number, run + 1)


@settings(deadline=None)
@given(puts, st.lists(st.tuples(st.sampled_from(PIDS), st.integers(0, 50), st.integers(1, 6)), max_size=6))
def test_complete_is_what_can_be_got(sequence: list[Put], wanted: list[tuple[int, int, int]]) -> None:
    held: set[tuple[int, int]] = set()
    with TemporaryDirectory() as directory, PageStore(Path(directory)) as store:
        for pid, first, pages, value in sequence:
            put(store, pid, first, *[value] * pages)
            held |= {(pid, first + index) for index in range(pages)}
        for pid in PIDS:
            entries = tuple(
                Entry(vaddr=first * PAGE_SIZE, pages=pages, flags=PE_LAZY) for of, first, pages in wanted if of == pid
            )
            Pagemap(pages_id=1, entries=entries).save(Path(directory, f"pagemap-{pid}.img"))
        missing = {(pid, first + index) for pid, first, pages in wanted for index in range(pages)} - held
        if missing:
            with pytest.raises(ImageError, match="never came"):
                store.check_complete(Path(directory))
        else:
            store.check_complete(Path(directory))


def test_pages_of_the_images_and_shared_memory_are_not_asked_for(store: PageStore, tmp_path: Path) -> None:
    here = Pagemap(pages_id=1, entries=(Entry(vaddr=0x1000, pages=2, flags=PE_PRESENT),))
    here.save(tmp_path / "pagemap-1.img")
    absent = Pagemap(pages_id=2, entries=(Entry(vaddr=0, pages=2, flags=PE_LAZY),))
    absent.save(tmp_path / "pagemap-shmem-1.img")
    store.check_complete(tmp_path)


def test_nothing_is_complete_without_a_process(store: PageStore, tmp_path: Path) -> None:
    absent = Pagemap(pages_id=1, entries=(Entry(vaddr=0x1000, pages=1, flags=PE_LAZY),))
    absent.save(tmp_path / "pagemap-9.img")
    with pytest.raises(ImageError, match="process 9"):
        store.check_complete(tmp_path)


def test_a_store_is_true_once_it_holds_something(store: PageStore) -> None:
    assert not store
    put(store, 1, 5, 1)
    assert store


def test_addresses_up_to_the_end_of_user_space(store: PageStore) -> None:
    last = (1 << 47) // PAGE_SIZE - 2
    put(store, 1, last, 7)
    put(store, 1, 0, 8)
    assert get(store, 1, last, 1) == page(7)
    assert get(store, 1, 0, 1) == page(8)


def test_files_are_for_their_owner_alone_and_closed(tmp_path: Path) -> None:
    with PageStore(tmp_path) as store:
        put(store, 3, 1, 1)
        (path,) = tmp_path.iterdir()
        assert path.stat().st_mode & 0o777 == 0o600
    assert not store

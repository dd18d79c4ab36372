"""Tests of checkpoint/memory/store.py against a dict: the newest content of each page is kept."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from checkpoint.criu.page_server import PAGE_SIZE, dst_id_of_process
from checkpoint.errors import ImageError
from checkpoint.memory.store import PageStore

BASE, PAGES = 0x7F00_0000_0000, 40
pids, page_numbers, counts = st.integers(1, 2), st.integers(0, PAGES - 1), st.integers(1, 6)


def content(stamp: int) -> bytes:
    return stamp.to_bytes(8, "little") * (PAGE_SIZE // 8)


class Model(RuleBasedStateMachine):
    """The store beside a dict {(pid, page): content}."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="store-"))
        self.store = PageStore(self.directory)
        self.model: dict[tuple[int, int], bytes] = {}
        self.stamp = 0

    def teardown(self) -> None:
        with self.store:
            pass
        shutil.rmtree(self.directory)

    @rule(pid=pids, first=page_numbers, count=counts)
    def put(self, pid: int, first: int, count: int) -> None:
        pages = []
        for page in range(first, first + count):
            self.stamp += 1
            pages.append(content(self.stamp))
            self.model[pid, page] = pages[-1]
        self.store.put(
            dst_id_of_process(pid), BASE + first * PAGE_SIZE, memoryview(b"".join(pages))
        )

    @rule(pid=pids)
    def forget(self, pid: int) -> None:
        self.store.forget(dst_id_of_process(pid))
        self.model = {key: page for key, page in self.model.items() if key[0] != pid}

    @rule(pid=pids, first=page_numbers, count=counts)
    def give_back(self, pid: int, first: int, count: int) -> None:
        pages = range(first, first + count)
        given = (
            dst_id_of_process(pid),
            BASE + first * PAGE_SIZE,
            BASE + (first + count) * PAGE_SIZE,
        )
        if any((pid, page) not in self.model for page in pages):
            with pytest.raises(ImageError):
                self.store.give_back(*given)
        else:
            self.store.give_back(*given)
            self.model.update({(pid, page): bytes(PAGE_SIZE) for page in pages})

    @rule(pid=pids, first=page_numbers, count=counts)
    def read(self, pid: int, first: int, count: int) -> None:
        wanted = [self.model.get((pid, page)) for page in range(first, first + count)]
        found = bytearray(count * PAGE_SIZE)
        if None in wanted:
            with pytest.raises(ImageError):
                self.store.read(dst_id_of_process(pid), BASE + first * PAGE_SIZE, memoryview(found))
        else:
            self.store.read(dst_id_of_process(pid), BASE + first * PAGE_SIZE, memoryview(found))
            assert found == b"".join(page for page in wanted if page)

    @rule(pid=pids, first=page_numbers, count=counts)
    def check(self, pid: int, first: int, count: int) -> None:
        pages = dst_id_of_process(pid), BASE + first * PAGE_SIZE, BASE + (first + count) * PAGE_SIZE
        if all((pid, page) in self.model for page in range(first, first + count)):
            self.store.check(*pages)
        else:
            with pytest.raises(ImageError):
                self.store.check(*pages)

    @precondition(lambda self: self.model)
    @invariant()
    def something_is_there(self) -> None:
        assert self.store

    @invariant()
    def every_page_is_the_newest(self) -> None:
        for (pid, page), expected in self.model.items():
            found = bytearray(PAGE_SIZE)
            self.store.read(dst_id_of_process(pid), BASE + page * PAGE_SIZE, memoryview(found))
            assert found == expected


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(
    ("vaddr", "size"), [(BASE, 0), (BASE, 1), (BASE, PAGE_SIZE + 1), (BASE + 1, PAGE_SIZE)]
)
def test_content_that_is_no_whole_pages_is_refused(tmp_path: Path, vaddr: int, size: int) -> None:
    with PageStore(tmp_path) as store, pytest.raises(ImageError):
        store.put(1, vaddr, memoryview(bytes(size)))


def test_pages_of_an_unknown_process_are_refused(tmp_path: Path) -> None:
    with PageStore(tmp_path) as store:
        assert not store
        with pytest.raises(ImageError):
            store.read(1, BASE, memoryview(bytearray(PAGE_SIZE)))


def test_pages_that_came_more_than_once_are_hot(tmp_path: Path) -> None:
    with PageStore(tmp_path) as store:
        store.put(1, BASE, memoryview(bytes(8 * PAGE_SIZE)))
        assert store.hot() == {}
        for page in (5, 2, 3):
            store.put(1, BASE + page * PAGE_SIZE, memoryview(bytes(PAGE_SIZE)))
        assert store.hot() == {
            1: [
                (BASE + 2 * PAGE_SIZE, BASE + 4 * PAGE_SIZE),
                (BASE + 5 * PAGE_SIZE, BASE + 6 * PAGE_SIZE),
            ]
        }


def test_a_store_leaves_no_file_and_no_descriptor(tmp_path: Path) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    with PageStore(tmp_path) as store:
        for pid in (1, 2):
            store.put(pid, BASE, memoryview(bytes(PAGE_SIZE)))
        store.forget(1)
        assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == fds


def test_a_full_store_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with PageStore(tmp_path) as store:
        store.put(1, BASE, memoryview(bytes(PAGE_SIZE)))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(ImageError, match="the page store is full"):
                store.put(1, BASE, memoryview(bytes(PAGE_SIZE)))

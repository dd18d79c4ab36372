"""The data that the target receives for a container before its restore.

Image files and pages go to RAM, other files into the container's trees and tmpfs mounts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from checkpoint.criu.images.pagemap import PageImages
from checkpoint.criu.page_server import PAGE_SIZE
from checkpoint.errors import CommandFailed, ImageError
from checkpoint.files.beneath import TreeRoot, gone_is_well
from checkpoint.files.changes import FileState, listing, signature
from checkpoint.files.tmpfs import PreparedTmpfs
from checkpoint.host import whole
from checkpoint.host.ram_directory import ram_directory
from checkpoint.memory import proof
from checkpoint.memory.fold import fold
from checkpoint.memory.restorable import Restorable
from checkpoint.memory.store import LazyRanges, PageStore
from migrate.files.tree_door import TreeDoor
from migrate.memory.receiver import PageReceiver, put_into, socket_path
from migrate.wire import protocol
from migrate.wire.protocol import Answer, Command
from migrate.wire.values import Area, in_pieces

#: The source may name so many ranges of pages of any container. Of a larger one it may name as
#: many as there is room for pages (`room_bytes`).
LEAST_EXTENTS = 1 << 16


class Received:
    """The image files, pages, trees and tmpfs mounts of one container, as far as they have come.

    All but the trees are beneath `directory`, which is in RAM and has a size of `room_bytes`. It
    is removed when `tidy` is closed. The trees are `trees`. `batch_s` is how long a batch of
    pages is waited for, in seconds.
    """

    def __init__(
        self,
        migration_id: str,
        request: protocol.Prepare,
        trees: TreeDoor,
        tidy: contextlib.ExitStack,
        log: Callable[[str], None],
        *,
        batch_s: float,
    ) -> None:
        self.directory = tidy.enter_context(ram_directory(migration_id, request.room_bytes, log))
        self.images = self.directory / "images"
        self.images.mkdir(mode=0o700)
        self.trees = trees
        self.store = tidy.enter_context(PageStore(self.directory))
        self.tmpfs = tidy.enter_context(PreparedTmpfs(self.directory))
        self._page_images = tidy.enter_context(PageImages(self.images))
        receiver = PageReceiver(
            socket_path(migration_id),
            request.page_channels,
            put_into(self.store, self._page_images),
            batch_s,
            lasting=True,
        )
        self._pages = tidy.enter_context(receiver)
        self._page_maps: list[protocol.PageMap] = []
        self._room_for_extents = max(LEAST_EXTENTS, request.room_bytes // PAGE_SIZE)
        self._image_files = self._image_bytes = 0
        self._lazy: LazyRanges | None = None

    def check_pages(self) -> int:
        """Return how many batches are in place. Raises the first failure of a page channel."""
        return self._pages.check()

    def settle(self) -> None:
        """Have a page channel that is lost from now on be a failure. Raises an earlier one."""
        self._pages.settle()

    def handle(self, request: Command) -> Iterable[Answer]:
        """Carry out one command that brings, removes or lists data, and return its answers."""
        if isinstance(request, protocol.ListTree):
            root = self.trees.root(request.tree)
            return _listed(listing(root) if request.paths is None else _those(root, request.paths))
        if isinstance(request, protocol.ListTmpfs):
            return _listed(listing(self.tmpfs.root(request.index)))
        handlers: dict[type[Command], Callable[[Any], Answer]] = {
            protocol.CriuImages: self._take_images,
            protocol.PageMap: self._page_map,
            protocol.RenewPages: self._renew_pages,
            protocol.Remove: self._remove,
            protocol.SetTimes: self._set_times,
            protocol.MakeTmpfs: self._make_tmpfs,
            protocol.RemoveInTmpfs: self._remove_in_tmpfs,
            protocol.ArmTmpfs: self._arm_tmpfs,
            protocol.TmpfsArchive: self._unpack_in_tmpfs,
        }
        return [handlers[type(request)](request)]

    def _take_images(self, request: protocol.CriuImages) -> Answer:
        data = memoryview(request.payload)
        for name, size in request.pieces:
            self._append(name, data[:size])
            data = data[size:]
        return protocol.Done()

    def _page_map(self, request: protocol.PageMap) -> Answer:
        self._room_for_extents -= 1 + len(request.extents)
        if self._room_for_extents < 0:
            raise ImageError("more ranges of pages were named than pages have room")
        self._page_maps.append(request)
        return protocol.Done()

    def _renew_pages(self, _: protocol.RenewPages) -> Answer:
        in_place, beyond = self._pages.renew()
        return protocol.BatchesThere(in_place=in_place, beyond=beyond)

    def _remove(self, request: protocol.Remove) -> Answer:
        self.trees.root(request.tree).remove(request.paths)
        return protocol.Done()

    def _set_times(self, request: protocol.SetTimes) -> Answer:
        for path, mtime_ns in request.directories:
            self.trees.root(request.tree).set_mtime(path, mtime_ns)
        return protocol.Done()

    def _make_tmpfs(self, request: protocol.MakeTmpfs) -> Answer:
        made = []
        for mount in request.mounts:
            with contextlib.suppress(CommandFailed):
                self.tmpfs.make(mount)
                made.append(mount.path)
        return protocol.TmpfsMade(paths=tuple(made))

    def _remove_in_tmpfs(self, request: protocol.RemoveInTmpfs) -> Answer:
        self.tmpfs.root(request.index).remove(request.paths)
        return protocol.Done()

    def _arm_tmpfs(self, request: protocol.ArmTmpfs) -> Answer:
        self.tmpfs.arm()
        return protocol.Done()

    def _unpack_in_tmpfs(self, request: protocol.TmpfsArchive) -> Answer:
        self.tmpfs.unpack(request.index, request.payload, last=request.last)
        return protocol.Done()

    def complete(self, request: protocol.Restore) -> LazyRanges:
        """Wait for the pages of all batches, and complete CRIU's memory images with them.

        Returns the ranges that stay in the page store for the pager, by address space (dst_id of
        page_server.py). Raises ImageError if an image file, a batch or a page is missing that the
        source has announced.
        """
        arrived, announced = (
            (self._image_files, self._image_bytes),
            (request.image_files, request.image_bytes),
        )
        if arrived != announced:
            raise ImageError(f"(images, their bytes): {arrived} arrived of {announced}")
        if self._lazy is not None:  # the first restore was lost
            return self._lazy
        self._pages.wait(request.batches)
        lazy: LazyRanges = {}
        for page_map in self._page_maps:
            if left := fold(self.store, self._page_images, page_map.dst_id, page_map.extents):
                lazy.setdefault(page_map.dst_id, []).extend(left)
        self._page_images.write_pagemaps()
        self._lazy = lazy
        return lazy

    def prove(self, seed: str | None, left_out: Iterable[Area]) -> tuple[bytes, int]:
        """Make the digests of the memory that the restore will use (checkpoint/memory/proof.py).

        `complete` must have returned. `seed` (hex) draws a sample of pages; without one, all
        pages are digested. The areas `left_out` count as zeros. Returns the digests, joined, and
        how many pages the container has. Raises CheckpointError for a page that is missing.
        """
        restorable = Restorable(self._page_images, self.store)
        found = restorable.pages()
        areas: dict[int, list[tuple[int, int]]] = {}
        for dst_id, address, size in sorted(left_out):
            areas.setdefault(dst_id, []).append((address, size))
        made = proof.digests(
            proof.pieces(found, bytes.fromhex(seed) if seed else None), restorable.read, areas
        )
        return b"".join(digest for _, digest in made if digest is not None), proof.page_count(found)

    def _append(self, name: str, data: memoryview) -> None:
        path = self.images / name
        self._image_files += not path.exists()
        self._image_bytes += len(data)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            whole.write(fd, data)
        finally:
            os.close(fd)


def _those(root: TreeRoot, paths: Iterable[str]) -> Iterator[FileState]:
    for path in paths:
        with gone_is_well():
            yield FileState.of(path, signature(root.stat(path)))


def _listed(files: Iterable[FileState]) -> Iterator[Answer]:
    for piece in in_pieces(files):
        yield protocol.TreeListed(files=piece, more=True)
    yield protocol.TreeListed(files=(), more=False)

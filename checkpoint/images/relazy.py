"""Undo a lazy dump's one mistake: memory written out because a stack pointer stood at the start of a page.

CRIU keeps the pages that stack pointers point into out of a lazy restore. To find them it compares the wrong half
of the addresses (criu/mem.c, is_stack, as of 4.2.1): one thread whose stack pointer is a multiple of 4096, which
is one in 256, and no page of its process is lazy. Otherwise none is kept out, and that does no harm.
"""

from __future__ import annotations

import struct
from pathlib import Path

from checkpoint.criu.page_wire import PAGE_SIZE, PE_LAZY, PE_PRESENT
from checkpoint.criu.rpc import DECODE_ERRORS, memory_map
from checkpoint.errors import ImageError
from checkpoint.images.pagemap import Entry, Pagemap
from checkpoint.memory.ranges import Range, difference, intersection, size, union

HEADER = struct.Struct("=8xI")  # two magics, then the length of the one message
#: mmap(2)
MAP_PRIVATE, MAP_ANONYMOUS, MAP_LOCKED, MAP_HUGETLB = 0x02, 0x20, 0x2000, 0x40000
#: VMA_AREA_VSYSCALL, VMA_AREA_VDSO, VMA_AREA_VVAR of CRIU criu/include/image.h
SPECIAL = 1 << 2 | 1 << 3 | 1 << 12


def relazy(images: Path, image: int) -> tuple[Pagemap, int]:
    """Mark as lazy, in a lazy dump, all of a process's memory that may be.

    Returns its pagemap as it is now, and the bytes taken out of the images: none if CRIU did mark some of it.
    Raises ImageError.
    """
    path = images / f"pagemap-{image}.img"
    pagemap = Pagemap.load(path)
    if any(entry.flags & PE_LAZY for entry in pagemap.entries):
        return pagemap, 0
    may_be = may_be_lazy(images / f"mm-{image}.img")
    present = [(entry.vaddr, entry.end) for entry in pagemap.entries]
    lazy = intersection(present, may_be)
    if not lazy:
        return pagemap, 0
    kept = difference(present, lazy)
    _keep(images / f"pages-{pagemap.pages_id}.img", present, kept)
    flags = [(piece, PE_LAZY) for piece in lazy] + [(piece, PE_PRESENT) for piece in kept]
    entries = (Entry(vaddr=start, pages=(end - start) // PAGE_SIZE, flags=flag) for (start, end), flag in sorted(flags))
    pagemap = Pagemap(pages_id=pagemap.pages_id, entries=tuple(entries))
    pagemap.save(path)
    return pagemap, size(lazy)


def may_be_lazy(path: Path) -> list[Range]:
    """Of a process's mm image, the mappings that CRIU can restore lazily (criu/include/vma.h, vma_entry_can_be_lazy).

    Raises ImageError.
    """
    data = path.read_bytes()
    try:
        (length,) = HEADER.unpack_from(data)
        mappings = memory_map().FromString(data[HEADER.size : HEADER.size + length]).vmas
    except struct.error as error:
        raise ImageError(f"{path.name} is damaged") from error
    except DECODE_ERRORS as error:
        raise ImageError(f"{path.name} is damaged") from error
    private = MAP_PRIVATE | MAP_ANONYMOUS
    return union(
        [
            (vma.start, vma.end)
            for vma in mappings
            if vma.flags & (private | MAP_LOCKED | MAP_HUGETLB) == private and not vma.status & SPECIAL
        ],
        [],
    )


def _keep(path: Path, present: list[Range], kept: list[Range]) -> None:
    """Leave in a pages image, which holds the pages `present` one after the other, only those of `kept`."""
    pieces, offset, left = [], 0, iter([*kept, (1 << 64, 1 << 64)])
    start, end = next(left)
    with path.open("rb") as pages:
        for first, last in present:
            while start < last:
                pages.seek(offset + start - first)
                pieces.append(pages.read(end - start))
                start, end = next(left)
            offset += last - first
    path.write_bytes(b"".join(pieces))

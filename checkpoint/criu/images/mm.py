"""A reader of the mappings of a process in CRIU's mm image file (CRIU images/mm.proto)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from checkpoint.criu.images.format import parsed
from checkpoint.criu.rpc import memory_map
from checkpoint.errors import ImageError
from checkpoint.memory.ranges import Range, union

#: Two u32 magics, then the length of the file's only message.
HEADER = struct.Struct("=8xI")
#: mmap(2)
MAP_PRIVATE, MAP_ANONYMOUS, MAP_LOCKED, MAP_HUGETLB = 0x02, 0x20, 0x2000, 0x40000
#: VMA_AREA_VSYSCALL, VMA_AREA_VDSO, VMA_AREA_VVAR of CRIU criu/include/image.h
SPECIAL = 1 << 2 | 1 << 3 | 1 << 12


def may_be_lazy(path: Path) -> list[Range]:
    """Return the ranges of a process's mm image file that CRIU can restore lazily.

    These are the mappings that satisfy vma_entry_can_be_lazy (CRIU criu/include/vma.h), sorted and
    joined where they are neighbours. Raises OSError, and ImageError when the file is damaged.
    """
    mappings = _mappings(path)
    private = MAP_PRIVATE | MAP_ANONYMOUS
    return union(
        [
            (vma.start, vma.end)
            for vma in mappings
            if vma.flags & (private | MAP_LOCKED | MAP_HUGETLB) == private
            and not vma.status & SPECIAL
        ],
        [],
    )


def _mappings(path: Path) -> list[Any]:
    """Return the vma_entry messages of an mm image file. Raises OSError and ImageError.

    The file has one message, which must end where the file ends.
    """
    data = path.read_bytes()
    if len(data) < HEADER.size or HEADER.unpack_from(data)[0] != len(data) - HEADER.size:
        raise ImageError(
            f"{path.name} is damaged: "
            f"it has {len(data)} bytes, and its message another number of them"
        )
    found = list(parsed(path.name, memory_map(), data[HEADER.size :]).vmas)
    if any(vma.start >= vma.end for vma in found):
        raise ImageError(
            f"{path.name} is damaged: it has a mapping that ends where it begins, or before"
        )
    return found

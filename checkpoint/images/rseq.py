"""Find the memory that the kernel writes by itself: each thread's area of restartable sequences (rseq(2)).

When a thread goes on, on another processor, the kernel writes that processor's number into its area. CRIU has every
thread go on for a moment after it has read memory (parasite code, compel/src/lib/infect.c), so that an area in CRIU's
images need not be what the frozen thread has. Either is right: a thread that is restored gets a new number at once.

Format: CRIU images/{pstree,core,rseq}.proto. An image is two u32 magics, then messages each preceded by its u32 length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoint.criu.page_wire import process_id
from checkpoint.criu.rpc import DECODE_ERRORS, process_tree, thread
from checkpoint.errors import ImageError

MAGICS_BYTES = 8
LENGTH = struct.Struct("=I")
#: By image of memory (a dst_id of criu/page_wire.py): address and bytes of each area.
Areas = dict[int, list[tuple[int, int]]]


def areas(images: Path) -> Areas:
    """Return the areas of all threads that a dump in `images` has. Raises ImageError, and OSError."""
    found: Areas = {}
    for process in _messages(images / "pstree.img", process_tree()):
        for number in process.threads:
            for core in _messages(images / f"core-{number}.img", thread()):
                area = core.thread_core.rseq_entry
                if area.rseq_abi_pointer:
                    of_process = found.setdefault(process_id(process.pid), [])
                    of_process.append((area.rseq_abi_pointer, area.rseq_abi_size))
    return {image: sorted(of_process) for image, of_process in found.items()}


def _messages(path: Path, kind: Any) -> Iterator[Any]:
    data = memoryview(path.read_bytes())[MAGICS_BYTES:]
    while data:
        size = LENGTH.unpack_from(data)[0] if len(data) >= LENGTH.size else len(data)
        if len(data) < LENGTH.size + size:
            raise ImageError(f"{path.name} is damaged: it ends within a message")
        try:
            yield kind.FromString(bytes(data[LENGTH.size : LENGTH.size + size]))
        except DECODE_ERRORS as error:
            raise ImageError(f"{path.name} is damaged") from error
        data = data[LENGTH.size + size :]

"""The areas of restartable sequences (rseq(2)): memory of threads that the kernel itself writes.

When a thread goes on on another processor, the kernel writes the number of that processor into the
thread's area. CRIU lets every thread go on for a moment after it has read the memory (parasite
code, compel/src/lib/infect.c). An area in CRIU's image files may therefore differ from that of the
frozen thread. Both are right, because a restored thread gets a new number at once.

Format: CRIU images/{pstree,core,rseq}.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoint.criu.images.format import messages, parsed
from checkpoint.criu.page_server import dst_id_of_process
from checkpoint.criu.rpc import process_tree, thread
from checkpoint.memory.proof import Areas


def areas(images: Path) -> Areas:
    """Return the rseq areas of all threads in the dump whose image files are in `images`.

    The result has, by the dst_id of each process, (address, bytes) of the areas of its threads in
    rising order. Raises ImageError when a file is damaged, and OSError.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    for process in _parsed(images / "pstree.img", process_tree()):
        for number in process.threads:
            for core in _parsed(images / f"core-{number}.img", thread()):
                area = core.thread_core.rseq_entry
                if area.rseq_abi_pointer:
                    of_process = found.setdefault(dst_id_of_process(process.pid), [])
                    of_process.append((area.rseq_abi_pointer, area.rseq_abi_size))
    return {dst_id: sorted(of_process) for dst_id, of_process in found.items()}


def _parsed(path: Path, kind: Any) -> Iterator[Any]:
    for message in messages(path.name, path.read_bytes()):
        yield parsed(path.name, kind, message)

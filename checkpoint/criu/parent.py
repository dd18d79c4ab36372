"""A parent that has all memory: what makes CRIU's dump note which pages there are, and leave them where they are.

Otherwise a dump passes every page through a pipe, which takes two thirds of its time (docs/performance.md), for bytes
that we have already. CRIU takes a parent only where the kernel tracks soft-dirty pages (criu/config.c, check_options),
since without them it cannot know what the parent lacks. We need not be told: a tracker of our own says what was
written (memory/tracker.py). CRIU keeps what it found the kernel to be able to in a file (criu/kerndat.c). Of that we
give our CRIU, in a mount namespace of its own (shim.py), a copy with this one answer changed. Nobody else sees it.
"""

from __future__ import annotations

import contextlib
import functools
import struct
import sys
import tempfile
from pathlib import Path

from checkpoint.criu import features, rpc
from checkpoint.criu.shim import KERNDAT
from checkpoint.criu.shim_install import install_shim
from checkpoint.errors import CommandFailed
from checkpoint.host.run import run

#: Where `has_dirty_track` stands in struct kerndat_s (criu/include/kerndat.h), in CRIU 3.x and 4.x; and where else
#: to look, in case. What is found there is not believed: CRIU itself is asked.
OFFSETS = (32, *(offset for offset in range(8, 64) if offset != 32))
#: criu/include/magic.h
INVENTORY_MAGIC = 0x58313116
#: In microseconds, after the start of every process: none has a number that another had in the parent
#: (criu/mem.c, detect_pid_reuse).
LATE = 1 << 62


@functools.cache
def kerndat_with_tracking() -> bytes | None:
    """What CRIU is to take the kernel for; None where that cannot be done. Empty where the kernel does track."""
    if features.has("mem_dirty_track"):
        return b""
    try:
        found = Path(KERNDAT).read_bytes()
    except OSError:  # CRIU keeps none where /run is not a tmpfs
        return None
    for offset in (offset for offset in OFFSETS if offset < len(found)):
        changed = found[:offset] + b"\1" + found[offset + 1 :]
        if not found[offset] and _is_taken_for_tracking(changed):
            return changed
    return None


def _is_taken_for_tracking(kerndat: bytes) -> bool:
    with tempfile.TemporaryDirectory(prefix="migrate-") as name:
        env = install_shim(Path(name), kerndat)
        shim = (
            Path(name) / "bin" / "criu"
        )  # by its interpreter: the directory may be on a file system without programs
        try:
            run(
                [sys.executable, "-IS", str(shim), "check", "--feature", "mem_dirty_track"], env=env
            )
        except CommandFailed:
            return False
    return True


def make_parent(directory: Path) -> str:
    """An inventory as a pre-dump leaves it, beside the images. Returns what the dump is to name as its parent.

    `directory` must be the parent of the directory that the dump writes its images to.
    """
    entry = rpc.inventory()(img_version=1, dump_uptime=LATE).SerializeToString()
    parent = directory / "all-memory"
    parent.mkdir(mode=0o700)
    (parent / "inventory.img").write_bytes(struct.pack("=II", INVENTORY_MAGIC, len(entry)) + entry)
    return f"../{parent.name}"


def forget_writes(pids: list[int]) -> None:
    """Where the kernel does track: have it take every page for one the parent has (soft-dirty.rst), until written."""
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended
            Path(f"/proc/{pid}/clear_refs").write_text("4")

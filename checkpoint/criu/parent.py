"""An empty parent image that claims to have all memory: CRIU's last dump then copies no page.

A dump passes every page through a pipe, which takes two thirds of its time (docs/performance.md),
although pre-copy has sent nearly all of them. If the request names a parent and `track_mem`, CRIU
only notes that a page is in the parent, unless the page was written since.

CRIU accepts `track_mem` only where the kernel tracks soft-dirty pages (criu/config.c,
check_options): without them it cannot know which pages the parent lacks. The tool does not need
CRIU for that, because its own tracker says which pages were written (memory/tracking/tracker.py).

CRIU keeps its findings about the kernel in a file, /run/criu.kdat (criu/kerndat.c). The shim
(shim.py) gives the tool's CRIU a copy in which this one finding is changed, bound over that file in
a mount namespace of its own, so that no other CRIU sees the copy.
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
from checkpoint.host import proc
from checkpoint.host.run import run

#: The byte offset of `has_dirty_track` in struct kerndat_s (criu/include/kerndat.h) of CRIU 3.x and
#: 4.x, and the offsets to try after that one. No offset is trusted: CRIU itself is asked whether a
#: changed byte makes it see soft-dirty tracking.
OFFSETS = (32, *(offset for offset in range(8, 64) if offset != 32))
#: criu/include/magic.h
INVENTORY_MAGIC = 0x58313116
#: A dump_uptime in microseconds, later than the start of every process. CRIU compares the two to
#: find processes whose pid another process had in the parent (criu/mem.c, detect_pid_reuse).
LATE = 1 << 62


@functools.cache
def kerndat_with_tracking() -> bytes | None:
    """Return a kerndat file that says that the kernel tracks soft-dirty pages.

    Return b"" if the kernel does track them, so that CRIU needs no such file; None if no file can
    be made, because CRIU keeps none on this host or takes no changed one for such a kernel.
    """
    if features.has("mem_dirty_track"):
        return b""
    try:
        found = Path(KERNDAT).read_bytes()
    except OSError:  # CRIU keeps none where /run is not a tmpfs
        return None
    for offset in (offset for offset in OFFSETS if offset < len(found)):
        changed = found[:offset] + b"\1" + found[offset + 1 :]
        if not found[offset] and is_taken_for_tracking(changed):
            return changed
    return None


def is_taken_for_tracking(kerndat: bytes) -> bool:
    """Return whether CRIU takes the kernel for one that tracks soft-dirty pages by this file."""
    with tempfile.TemporaryDirectory(prefix="migrate-") as name:
        env = install_shim(Path(name), kerndat)
        # The shim is started by its interpreter: the directory may be mounted noexec.
        shim = Path(name) / "bin" / "criu"
        try:
            run(
                [sys.executable, "-IS", str(shim), "check", "--feature", "mem_dirty_track"], env=env
            )
        except CommandFailed:
            return False
    return True


def make_parent(directory: Path) -> str:
    """Make a parent that has an inventory, as a pre-dump leaves it. Return the dump's `parent_img`.

    `directory` must be the parent of the directory that the dump writes its image files to.
    """
    entry = rpc.inventory()(img_version=1, dump_uptime=LATE).SerializeToString()
    parent = directory / "all-memory"
    parent.mkdir(mode=0o700)
    (parent / "inventory.img").write_bytes(struct.pack("=II", INVENTORY_MAGIC, len(entry)) + entry)
    return f"../{parent.name}"


def forget_writes(pids: list[int]) -> None:
    """Clear the soft-dirty bits of these processes (soft-dirty.rst).

    CRIU then takes each of their pages for one that the parent has, until the page is written.
    Needed only where the kernel does track soft-dirty pages.
    """
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the process ended
            Path(proc.path(pid, "clear_refs")).write_text("4")

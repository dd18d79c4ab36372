"""A directory for images: in RAM, readable by root alone, gone when its owner is done with it.

Its owner holds a lock on it (flock(2), shared) as long as it lives, and so does whoever takes over. What nobody holds
was left by a process that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from checkpoint.errors import CommandFailed, ImageError
from checkpoint.host.listener import has_listener
from checkpoint.host.run import run

#: Images hold the container's memory: keys, passwords, customer data.
MODE = 0o700
RUN = Path("/run/migrate")
#: How a migration is named (migrate/report.py); other things may lie beside theirs.
NAME = re.compile(r"[0-9a-f]{12}")


@contextlib.contextmanager
def ram_directory(name: str, size_bytes: int, tell: Callable[[str], None]) -> Iterator[Path]:
    """Make /run/migrate/NAME, a tmpfs of its own and of that size; unmount and remove it on the way out.

    `tell` is told of a kernel that may write it to swap. Raises ImageError or CommandFailed.
    """
    path = RUN / name
    with _nobody_else():
        try:
            path.mkdir(mode=MODE)
        except FileExistsError as error:
            raise ImageError(
                f"{path} exists: a migration of that id is already under way"
            ) from error
        try:
            if not _mount(path, size_bytes) and _swaps():
                tell(
                    "images may be swapped out: this kernel cannot keep a tmpfs from it (Linux 6.4 can)"
                )
            claimed = claim(path)
        except Exception:
            remove_ram_directory(path)
            raise
    try:
        yield path
    finally:
        try:
            remove_ram_directory(path)
        finally:
            os.close(claimed)  # only now does its RAM come free


def claim(directory: Path) -> int:
    """A descriptor with which its owner holds a directory until it closes it, or ends. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def claim_alone(directory: Path) -> int | None:
    """Likewise, of a directory that has no other owner; None where it has one, or has just gone. Raises OSError."""
    with contextlib.ExitStack() as undo, contextlib.suppress(BlockingIOError, FileNotFoundError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(directory)):
            undo.pop_all()
            return fd
    return None


def is_abandoned(directory: Path) -> bool:
    """Whether no process holds it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def remove_ram_directory(path: Path) -> None:
    """Undo `ram_directory`. Lazy, for a CRIU that is still closing its descriptors."""
    if os.path.ismount(path):
        run(["umount", "--lazy", str(path)])
    shutil.rmtree(path, ignore_errors=True)


def remove_sockets(path: Path) -> None:
    """Remove the sockets beside a migration's directory that nobody listens at any more."""
    for beside in path.parent.glob(f"{path.name}.*"):
        if beside.is_socket() and not has_listener(beside):
            beside.unlink(missing_ok=True)


def abandoned() -> dict[str, int]:
    """Names of migrations whose directories nobody holds, and the RAM in them, in bytes."""
    if not RUN.exists():
        return {}
    with _nobody_else():
        return {path.name: _used_bytes(path) for path in _abandoned()}


def remove_abandoned() -> Iterator[str]:
    """Remove them, and the sockets beside them. Yields, for each, what was done or not."""
    if not RUN.exists():
        return
    with _nobody_else():
        for path in _abandoned():
            size_bytes = _used_bytes(path)
            try:
                if os.path.ismount(path):
                    # Not lazy: should anybody use it after all, it stays.
                    run(["umount", "--recursive", str(path)])
                path.rmdir()
            except (CommandFailed, OSError) as error:
                yield f"{path}, left by a move that was killed, cannot be removed: {error}"
            else:
                yield f"{path}, left by a move that was killed, was removed: {size_bytes >> 20} MiB of RAM"
        # A move that has no directory yet may listen already: for the files of an image.
        for name in {
            path.stem for path in RUN.iterdir() if NAME.fullmatch(path.stem) and path.is_socket()
        }:
            if not (RUN / name).exists():
                remove_sockets(RUN / name)


def _abandoned() -> list[Path]:
    there = [path for path in sorted(RUN.iterdir()) if NAME.fullmatch(path.name) and path.is_dir()]
    return [path for path in there if is_abandoned(path)]


@contextlib.contextmanager
def _nobody_else() -> Iterator[None]:
    """Between its making and its owner's lock a directory looks abandoned: one process at a time makes or looks."""
    RUN.mkdir(mode=MODE, exist_ok=True)
    fd = os.open(RUN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _mount(path: Path, size_bytes: int) -> bool:
    """Whether it will be kept out of swap (tmpfs(5), noswap)."""
    options, mount = f"mode=0700,size={size_bytes}", ["mount", "-t", "tmpfs", "-o"]
    try:
        run([*mount, f"{options},noswap", "migrate", str(path)])
    except CommandFailed:
        run([*mount, options, "migrate", str(path)])
        return False
    return True


def _swaps() -> bool:
    """Whether this host has anywhere to swap to (proc_swaps(5): a heading, and a line for each)."""
    with contextlib.suppress(OSError):
        return len(Path("/proc/swaps").read_text().splitlines()) > 1
    return False


def _used_bytes(path: Path) -> int:
    if not os.path.ismount(path):
        return 0
    found = os.statvfs(path)
    return found.f_frsize * (found.f_blocks - found.f_bfree)

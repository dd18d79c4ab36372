"""A migration's directory of image files: in RAM, and readable by root alone.

The process that made the directory holds a shared lock on it (flock(2)) as long as it needs the
directory. On the target the keeper holds one too, so that it can go on in the agent's place. A
directory without a lock is abandoned: the processes that used it were killed. `claim`,
`claim_alone` and `is_abandoned` work for any directory, also on disk.
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
from checkpoint.host import paths, proc
from checkpoint.host.listener import has_listener
from checkpoint.host.run import run

#: Image files hold the container's memory: keys, passwords, customer data.
MODE = 0o700
RUN = paths.RUN
#: The form of a migration's id (migrate/report.py). RUN also holds files that are no migration's.
NAME = re.compile(r"[0-9a-f]{12}")


def directory_of(name: str) -> Path:
    """Return the path of a migration's directory, which need not exist."""
    return RUN / name


@contextlib.contextmanager
def ram_directory(name: str, size_bytes: int, tell: Callable[[str], None]) -> Iterator[Path]:
    """Mount a tmpfs of `size_bytes` at /run/migrate/NAME for the block, and remove it afterwards.

    The directory is claimed during the block. If the kernel may write the tmpfs to swap, `tell` is
    called with a line about that. Raises ImageError when the directory exists, CommandFailed when
    the tmpfs cannot be mounted or unmounted, and OSError.
    """
    path = directory_of(name)
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
                    "images may be swapped out: "
                    "this kernel cannot keep a tmpfs from it (Linux 6.4 can)"
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
            # The unmount was lazy: only when this last descriptor is closed is the RAM free.
            os.close(claimed)


def claim(directory: Path) -> int:
    """Take a shared lock on a directory and return the descriptor that holds it. Raises OSError.

    The directory is claimed until the descriptor is closed or the process ends. Several processes
    may claim one directory.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def claim_alone(directory: Path) -> int | None:
    """Take an exclusive lock on a directory and return the descriptor that holds it.

    Returns None if another process has claimed the directory, or if the directory was removed or
    replaced meanwhile. Raises OSError.
    """
    with contextlib.ExitStack() as undo, contextlib.suppress(BlockingIOError, FileNotFoundError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(directory)):
            undo.pop_all()
            return fd
    return None


def is_abandoned(directory: Path) -> bool:
    """Return whether no process has claimed a directory. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def remove_ram_directory(path: Path) -> None:
    """Unmount and remove a directory that `ram_directory` made. Raises CommandFailed.

    The unmount is lazy, because CRIU may still be closing its descriptors of image files.
    """
    if os.path.ismount(path):
        run(["umount", "--lazy", str(path)])
    shutil.rmtree(path, ignore_errors=True)


def remove_sockets(path: Path) -> None:
    """Remove the sockets next to a migration's directory `path` at which no process listens.

    Such a socket has the name of the directory with a suffix. Raises OSError.
    """
    for beside in path.parent.glob(f"{path.name}.*"):
        if beside.is_socket() and not has_listener(beside):
            beside.unlink(missing_ok=True)


def abandoned() -> dict[str, int]:
    """Return {migration id: bytes of RAM in use} of all abandoned directories. Raises OSError."""
    if not RUN.exists():
        return {}
    with _nobody_else():
        return {path.name: _used_bytes(path) for path in _abandoned()}


def remove_abandoned() -> list[str]:
    """Remove all abandoned directories, and sockets without a directory or a listener.

    Returns one line for people for each directory, which says whether it could be removed. Raises
    OSError.
    """
    lines: list[str] = []
    if not RUN.exists():
        return lines
    with _nobody_else():
        for path in _abandoned():
            size_bytes = _used_bytes(path)
            try:
                if os.path.ismount(path):
                    # Not lazy: a tmpfs that some process still uses must stay.
                    run(["umount", "--recursive", str(path)])
                path.rmdir()
            except (CommandFailed, OSError) as error:
                lines.append(f"{path}, left by a move that was killed, cannot be removed: {error}")
            else:
                lines.append(
                    f"{path}, left by a move that was killed, "
                    f"was removed: {size_bytes >> 20} MiB of RAM"
                )
        # A socket without a directory is not always left over: the agent listens for the files of
        # a container image before it makes its directory. `remove_sockets` spares such a socket.
        for name in {
            path.stem for path in RUN.iterdir() if NAME.fullmatch(path.stem) and path.is_socket()
        }:
            if not (RUN / name).exists():
                remove_sockets(RUN / name)
    return lines


def _abandoned() -> list[Path]:
    there = [path for path in sorted(RUN.iterdir()) if NAME.fullmatch(path.name) and path.is_dir()]
    return [path for path in there if is_abandoned(path)]


@contextlib.contextmanager
def _nobody_else() -> Iterator[None]:
    """Hold the lock of RUN, under which directories are made and abandoned ones are looked for.

    A directory that was made and not yet claimed looks abandoned. Hence only one process at a time
    makes a directory or looks for abandoned ones.
    """
    RUN.mkdir(mode=MODE, exist_ok=True)
    fd = os.open(RUN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _mount(path: Path, size_bytes: int) -> bool:
    """Mount a tmpfs, and return whether the kernel keeps it out of swap (tmpfs(5), noswap)."""
    options, mount = f"mode=0700,size={size_bytes}", ["mount", "-t", "tmpfs", "-o"]
    try:
        run([*mount, f"{options},noswap", "migrate", str(path)])
    except CommandFailed:
        run([*mount, options, "migrate", str(path)])
        return False
    return True


def _swaps() -> bool:
    """Return whether this host has swap space (proc_swaps(5): a heading, and a line for each)."""
    with contextlib.suppress(OSError):
        return len(Path(proc.path("swaps")).read_text().splitlines()) > 1
    return False


def _used_bytes(path: Path) -> int:
    if not os.path.ismount(path):
        return 0
    found = os.statvfs(path)
    return found.f_frsize * (found.f_blocks - found.f_bfree)

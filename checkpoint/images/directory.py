"""A directory for images: in RAM, readable by root alone, gone when its owner is done with it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from checkpoint.errors import ImageError
from checkpoint.host.run import run

#: Images hold the container's memory: keys, passwords, customer data.
MODE = 0o700
RUN = Path("/run/migrate")


@contextlib.contextmanager
def ram_directory(name: str, size_bytes: int) -> Iterator[Path]:
    """/run/migrate/NAME on a tmpfs of its own and of that size, unmounted and removed on the way out."""
    path = RUN / name
    RUN.mkdir(mode=MODE, exist_ok=True)
    try:
        path.mkdir(mode=MODE)
    except FileExistsError as error:
        raise ImageError(f"{path} exists: a migration of that id is already under way") from error
    try:
        run(["mount", "-t", "tmpfs", "-o", f"mode=0700,size={size_bytes}", "migrate", str(path)])
    except Exception:
        path.rmdir()
        raise
    try:
        yield path
    finally:
        remove_ram_directory(path)


def remove_ram_directory(path: Path) -> None:
    """Undo `ram_directory`. Lazy, for a CRIU that is still closing its descriptors."""
    if os.path.ismount(path):
        run(["umount", "--lazy", str(path)])
    shutil.rmtree(path, ignore_errors=True)

"""Tar archives of engines, of which not everything is wanted."""

from __future__ import annotations

import http.client
import shutil
import tarfile
from collections.abc import Container
from pathlib import Path, PurePosixPath
from typing import IO

from checkpoint.errors import ImageError

#: What comes of reading a damaged archive with tarfile, or one that docker stops sending.
ERRORS = (tarfile.TarError, EOFError, ValueError, OverflowError, OSError, http.client.HTTPException)


def unpack(archive: IO[bytes], left_out: Container[str], directory: Path) -> None:
    """Directories and files of an archive that is read as it comes. Raises ImageError for anything else in it.

    Owners, modes and times are not kept: an engine's image has nothing but data in it.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r|") as entries:
            for entry in entries:
                path = PurePosixPath(entry.name)
                content = entries.extractfile(entry) if entry.isreg() else None
                if path.is_absolute() or ".." in path.parts or not (content or entry.isdir()):
                    raise ImageError(f"{entry.name[:80]!r} has no place in an archive of an image")
                if content is None:
                    (directory / path).mkdir(parents=True, exist_ok=True)
                elif entry.name not in left_out:
                    (directory / path.parent).mkdir(parents=True, exist_ok=True)
                    with (directory / path).open("xb") as file:
                        shutil.copyfileobj(content, file)
    except ERRORS as error:
        raise ImageError(f"an archive of an image cannot be unpacked: {error}") from error


def copied(archive: Path, left_out: Container[str], into: tarfile.TarFile, most_bytes: int) -> None:
    """Add all but some entries of an archive, which is not compressed, to another.

    Raises ImageError for a damaged one, and for one with more than `most_bytes` in what is copied.
    """
    left = most_bytes
    try:
        with tarfile.open(archive, "r:") as entries:  # of no compression, which could hide any size
            for entry in entries:
                if entry.name in left_out:
                    continue
                left -= entry.size
                if left < 0:
                    raise ImageError(
                        f"{entry.size} bytes of {entry.name[:80]!r} are more than an archive may have"
                    )
                into.addfile(entry, entries.extractfile(entry) if entry.isreg() else None)
    except ERRORS as error:
        raise ImageError(f"{archive.name} cannot be read: {error}") from error

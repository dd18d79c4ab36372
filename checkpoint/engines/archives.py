"""Tar archives of engines, unpacked or copied without some of their entries."""

from __future__ import annotations

import http.client
import io
import shutil
import tarfile
from collections.abc import Callable, Container, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from checkpoint.errors import ImageError

#: Errors of reading, by tarfile, an archive that is damaged or that docker stops sending.
ERRORS = (tarfile.TarError, EOFError, ValueError, OverflowError, OSError, http.client.HTTPException)


def unpack(archive: IO[bytes], left_out: Container[str], directory: Path) -> None:
    """Unpack the directories and files of an archive, which is read as it comes.

    Files named in `left_out` are not unpacked. Owners, modes and times are not kept, because an
    engine's archive of a container image holds nothing but data. Raises ImageError for a damaged
    archive, and for an entry of another kind or with a path out of `directory`.
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


def copied(
    archive: Path,
    left_out: Container[str],
    into: tarfile.TarFile,
    most_bytes: int,
    edits: Mapping[str, Callable[[bytes], bytes]],
) -> None:
    """Add the entries of an uncompressed archive to another, except those named in `left_out`.

    `edits` says, by the name of an entry, what its content becomes. What an edit raises is raised.
    Raises ImageError if `archive` is damaged, or if the added files have more than `most_bytes`.
    """
    left = most_bytes
    try:
        with tarfile.open(archive, "r:") as entries:  # uncompressed: compression hides any size
            for entry in entries:
                if entry.name in left_out:
                    continue
                left -= entry.size
                if left < 0:
                    raise ImageError(
                        f"{entry.size} bytes of {entry.name[:80]!r} are more"
                        " than an archive may have"
                    )
                content = entries.extractfile(entry) if entry.isreg() else None
                if content is not None and entry.name in edits:
                    edited = edits[entry.name](content.read())
                    entry.size, content = len(edited), io.BytesIO(edited)
                into.addfile(entry, content)
    except ERRORS as error:
        raise ImageError(f"{archive.name} cannot be read: {error}") from error

"""Archives in memory, whole and damaged."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path


def pack(files: dict[str, bytes | None]) -> bytes:
    """Return an archive of files, and of directories where the content is None."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.mtime = 0o751, 1_700_000_000
            if data is None:
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data or b""))
    return written.getvalue()


def unpack(archive: bytes) -> dict[str, bytes | None]:
    """Return the files of an archive by their names, with None for directories."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        entries = {entry.name: tar.extractfile(entry) for entry in tar}
        assert len(entries) == len(tar.getnames())
        return {name: file.read() if file else None for name, file in entries.items()}


def file_of(directory: Path, data: bytes) -> Path:
    """Write an archive into a directory, and return its path."""
    path = directory / "archive.tar"
    path.write_bytes(data)
    return path


#: Functions that damage an archive.
DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda data: b"",
    lambda data: b"\0" * 511,
    lambda data: b"x" * 4096,
    lambda data: data[:700],
    lambda data: data[:124] + b"\x80" + b"\0" * 10 + b"\x01" + data[136:],  # a size in base 256
    lambda data: data[:124] + b"\xff" * 12 + data[136:],  # a size below 0
    lambda data: data[:257] + b"ustar  \0" + data[265:],
]

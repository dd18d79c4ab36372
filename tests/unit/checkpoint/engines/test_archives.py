"""Tests of checkpoint/engines/archives.py: an archive of an image keeps within its directory."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.engines import archives
from checkpoint.errors import ImageError
from tests.unit.checkpoint.engines.archive_bytes import DAMAGES, pack


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_refused_or_unpacked(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    data = pack({"config.dump": b"{}" * 300})
    with contextlib.suppress(ImageError):
        archives.unpack(io.BytesIO(damage(data)), (), tmp_path / "out")


@pytest.mark.parametrize("name", ["../out", "{}/out", "a/../../out"])
def test_an_archive_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    data, inside = pack({"blobs": None, name.format(tmp_path): b"x"}), tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(ImageError):
        archives.unpack(io.BytesIO(data), (), inside)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_an_archive_with_more_than_files_and_directories_is_refused(
    tmp_path: Path, kind: bytes
) -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        entry = tarfile.TarInfo("blobs")
        entry.type, entry.linkname = kind, "/etc"
        tar.addfile(entry)
    with pytest.raises(ImageError):
        archives.unpack(io.BytesIO(written.getvalue()), (), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_is_unpacked_without_what_is_left_out(tmp_path: Path) -> None:
    data = pack(
        {"blobs": None, "blobs/sha256/1": b"one", "blobs/sha256/2": b"two", "index.json": b"{}"}
    )
    archives.unpack(io.BytesIO(data), {"blobs/sha256/2"}, tmp_path)
    found = {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert found == {"blobs/sha256/1": b"one", "index.json": b"{}"}

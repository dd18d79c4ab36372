"""Tests of checkpoint/engines/podman/incoming.py: what the target's podman is given."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.engines.podman import incoming
from checkpoint.engines.podman.engine import without_contents
from checkpoint.engines.podman.incoming import IncomingPodmanContainer, with_output
from checkpoint.errors import DataInvalid
from tests.unit.checkpoint.engines.archive_bytes import file_of, pack, unpack
from tests.unit.helpers.podman import DESCRIPTION, arriving, fake_podman, restore


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the log that the target's podman has of the container."""
    return fake_podman(tmp_path, monkeypatch)


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Return the path of the log that the source names."""
    return tmp_path / "named"


@pytest.fixture
def arrival(log: Path, named: Path) -> Iterator[IncomingPodmanContainer]:
    """Yield the prepared arrival of the container."""
    with arriving(named) as made:
        yield made


def test_late_output_goes_to_the_log_of_this_podman(
    arrival: IncomingPodmanContainer, log: Path, named: Path, tmp_path: Path
) -> None:
    arrival.take_output(b"1\n2\n")
    restore(arrival, tmp_path)
    arrival.take_output(b"3\n")
    assert log.read_bytes() == b"1\n2\n3\n"
    assert not named.exists()


def test_late_output_makes_no_log(
    arrival: IncomingPodmanContainer, log: Path, named: Path, tmp_path: Path
) -> None:
    restore(arrival, tmp_path)
    log.unlink()
    arrival.take_output(b"3\n")
    assert not log.exists()
    assert not named.exists()


def test_output_that_the_source_has_not_announced_is_dropped(log: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as undo:
        arrival = IncomingPodmanContainer("x", DESCRIPTION, undo)
        arrival.prepare(b"", shared=False)
        restore(arrival, tmp_path)
        arrival.take_output(b"3\n")
    assert log.read_bytes() == b""


@pytest.mark.parametrize("name", ["../../../x", "--all", "", "a/b"])
def test_an_id_that_is_none_is_refused(name: str) -> None:
    with contextlib.ExitStack() as undo, pytest.raises(DataInvalid):
        IncomingPodmanContainer("x", {**DESCRIPTION, "id": name}, undo)


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ([b"0123\n", b"5678\n"], b"0123\n5678\n"),
        ([b"0123\n", b"5678\n", b"a\n"], b"5678\na\n"),
        ([b"0\n2\n4\n6\n8\n", b"a\n"], b"2\n4\n6\n8\na\n"),
        ([b"0\n2\n4\n6\n8\n", b"ab\n"], b"4\n6\n8\nab\n"),
        ([b"one\n", b"line of more than that\n", b"two\n"], b"two\n"),
        ([b"no end of a line"], b""),
    ],
)
def test_the_last_lines_of_much_output_are_kept(
    arrival: IncomingPodmanContainer,
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[bytes],
    kept: bytes,
) -> None:
    monkeypatch.setattr(incoming, "MOST_OUTPUT_BYTES", 10)
    for each in lines:
        arrival.take_output(each)
    restore(arrival, tmp_path)
    assert log.read_bytes() == kept


@pytest.mark.parametrize("output", [b"", b"line\n", b"2026-01-01T00:00:00Z stdout F \xff\n" * 1000])
def test_output_is_added_to_the_archive(tmp_path: Path, output: bytes) -> None:
    archive = without_contents(
        file_of(tmp_path, pack({"config.dump": b"{}" * 300, "ctr.log": b"old\n"}))
    )
    found = unpack(with_output(archive, output))
    assert found == {"config.dump": b"{}" * 300, "checkpoint/inventory.img": b"", "ctr.log": output}


def test_output_is_added_behind_whatever_the_archive_is() -> None:
    """The archive comes from the other host, and is not parsed on the way to podman."""
    for archive in (b"", b"x", bytes(2048), b"y" * 513, pack({"a": b"1"})):
        found = with_output(archive, b"line\n")
        assert len(found) % 512 == 0
        assert len(found) <= len(archive) + 4 * 512
        with tarfile.open(fileobj=io.BytesIO(found[-4 * 512 :])) as tar:
            assert [(entry.name, entry.size) for entry in tar] == [("ctr.log", 5)]

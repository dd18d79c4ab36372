"""Tests of checkpoint/host/ownership.py: what a migration makes has the source's modes and owners.

No mode is ever wider than on the source.
"""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.host import ownership
from checkpoint.host.ownership import Maker, Owned

SECRET = b"secret"


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=lambda mask: f"umask {mask:03o}")
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have this umask during the test: nothing depends on it."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def look(path: Path) -> Owned:
    """Return the mode and the owners of a file."""
    status = path.stat()
    return Owned(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def told(root: Path, modes: dict[str, int]) -> dict[str, Owned]:
    """Return what a source says of these paths, and of their parents what is true of this host."""
    owned = {path: Owned(*values) for path, values in ownership.along(root).items()}
    return owned | {
        str(root / name): Owned(mode, os.geteuid(), os.getegid()) for name, mode in modes.items()
    }


def make(maker: Maker, path: Path) -> list[Path]:
    """Make the missing directories of a path, and return them."""
    made = []
    for missing in maker.missing(path):
        maker.directory(missing)
        made.append(missing)
    return made


@pytest.fixture
def root() -> Iterator[Path]:
    """Yield a directory that every user may pass, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_each_directory_has_its_own_mode(root: Path, umask: None) -> None:
    modes = {"a": 0o2770, "a/b": 0o700, "a/b/c": 0o1777}
    assert make(Maker(told(root, modes)), root / "a/b/c") == [
        root / "a",
        root / "a/b",
        root / "a/b/c",
    ]
    assert {name: look(root / name).mode for name in modes} == modes


def test_owners_come_along(root: Path, umask: None) -> None:
    owned = told(root, {}) | {str(root / "a"): Owned(0o750, 1234, 5678)}
    make(Maker(owned), root / "a")
    Maker(owned | {str(root / "a/file"): Owned(0o4640, 12, 34)}).file(root / "a/file", SECRET)
    assert look(root / "a") == Owned(0o750, 1234, 5678)
    assert look(root / "a/file") == Owned(0o4640, 12, 34)


def test_what_the_source_says_nothing_of_is_private(root: Path, umask: None) -> None:
    make(Maker(told(root, {"a/b": 0o755})), root / "a/b")
    assert look(root / "a").mode == 0o700


def test_what_exists_is_not_changed(root: Path, umask: None) -> None:
    (root / "a").mkdir()
    (root / "a").chmod(0o751)
    assert make(Maker(told(root, {"a": 0o700, "a/b": 0o755})), root / "a/b") == [root / "a/b"]
    assert look(root / "a").mode == 0o751


@pytest.mark.parametrize(
    ("on_source", "on_target", "made"),
    [
        (0o755, 0o755, 0o755),
        (0o700, 0o755, 0o700),
        (0o700, 0o700, 0o755),
        (0o750, 0o755, 0o750),
        (0o711, 0o755, 0o755),
    ],
)
def test_a_wider_parent_is_made_up_for(
    root: Path, umask: None, on_source: int, on_target: int, made: int
) -> None:
    """Other users get in where they got in on the source, and nowhere else."""
    (root / "a").mkdir()
    (root / "a").chmod(on_target)
    make(Maker(told(root, {"a": on_source, "a/b": 0o755})), root / "a/b")
    assert look(root / "a/b").mode == made


def test_a_parent_of_another_group_lets_other_people_in(root: Path) -> None:
    (root / "a").mkdir()
    (root / "a").chmod(0o750)
    os.chown(root / "a", 0, 77)
    make(Maker(told(root, {"a": 0o750, "a/b": 0o770})), root / "a/b")
    assert look(root / "a/b").mode == 0o700


def test_a_file_is_replaced_whole_and_follows_no_link(root: Path, umask: None) -> None:
    outside = root / "outside"
    outside.write_bytes(b"kept")
    (root / "config.json").symlink_to(outside)
    Maker(told(root, {"config.json": 0o600})).file(root / "config.json", SECRET)
    assert (root / "config.json").read_bytes() == SECRET
    assert look(root / "config.json").mode == 0o600
    assert outside.read_bytes() == b"kept"
    assert sorted(path.name for path in root.iterdir()) == ["config.json", "outside"]


def test_a_file_that_cannot_be_written_leaves_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: int) -> None:
        raise OSError(1, "no")

    (root / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fchown", fail)
    with pytest.raises(OSError, match="no"):
        Maker(told(root, {"file": 0o644})).file(root / "file", SECRET)
    assert [path.read_bytes() for path in root.iterdir()] == [b"old"]


def test_a_file_is_private_while_it_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        os, "fchown", lambda fd, uid, gid: seen.append(stat.S_IMODE(os.fstat(fd).st_mode))
    )
    before = os.umask(0)
    try:
        Maker(told(root, {"file": 0o644})).file(root / "file", SECRET)
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_what_is_the_tools_own_is_private(root: Path, umask: None) -> None:
    ownership.private_directory(root / "x/y")
    ownership.mark(root / "x/y/mark")
    assert [look(root / name).mode for name in ("x", "x/y", "x/y/mark")] == [0o700, 0o700, 0o600]
    ownership.private_directory(root / "x/y")
    ownership.mark(root / "x/y/mark")
    assert look(root).mode == 0o755

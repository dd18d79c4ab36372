"""Tests of migrate/logs.py: the logs of failed migrations that are kept."""

from __future__ import annotations

import logging
import os
import platform
import re
from pathlib import Path

import pytest

from migrate import logs

ID = "0123456789ab"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory where logs are kept."""
    monkeypatch.setattr(logs, "DIRECTORY", tmp_path / "kept")
    return tmp_path / "kept"


def test_logs_are_gathered_wherever_they_are(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/dump.log").write_text("frozen")
    (tmp_path / "top.log").write_text("x")
    (tmp_path / "images/pages-1.img").write_text("secret")
    (tmp_path / "images/empty.log").touch()
    assert logs.gather(tmp_path) == [("images-dump.log", b"frozen"), ("top.log", b"x")]


def test_the_end_of_a_long_log_is_gathered(tmp_path: Path) -> None:
    (tmp_path / "long.log").write_bytes(b"begin" + b"x" * logs.MOST_BYTES + b"end")
    [(_, data)] = logs.gather(tmp_path)
    assert len(data) == logs.MOST_BYTES
    assert data.endswith(b"xend")


def test_what_is_no_plain_file_is_left_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    there = tmp_path / "images"
    there.mkdir()
    (there / "link.log").symlink_to(secret)
    os.mkfifo(there / "pipe.log")  # no reader waits for its writer
    (there / "directory.log").mkdir()
    assert logs.gather(there) == []


def test_no_more_are_gathered_than_a_message_takes(tmp_path: Path) -> None:
    for number in range(logs.MOST_FILES + 5):
        (tmp_path / f"{number}.log").write_text("x")
    assert len(logs.gather(tmp_path)) == logs.MOST_FILES


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_kept_logs_are_roots_alone(directory: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        kept = logs.keep(ID, "target", [("restore.log", b"no luck")])
    finally:
        os.umask(before)
    assert kept == directory / ID
    assert (directory / ID / "target-restore.log").read_bytes() == b"no luck"
    assert [
        path.stat().st_mode & 0o777 for path in (directory, kept, kept / "target-restore.log")
    ] == [
        0o700,
        0o700,
        0o600,
    ]


@pytest.mark.parametrize(
    "name", ["../../etc/cron.d/x", "/etc/x", ".ssh", "", "a\nb", "x" * 65, "a/b.log", ".."]
)
def test_a_name_from_the_other_host_leads_nowhere_else(directory: Path, name: str) -> None:
    assert logs.keep(ID, "target", [(name, b"evil")]) is None
    assert not directory.exists()


def test_what_the_other_host_sends_is_bounded(directory: Path) -> None:
    logs.keep(
        ID, "target", [(f"{number}.log", b"x" * (logs.MOST_BYTES + 1)) for number in range(100)]
    )
    kept = list((directory / ID).iterdir())
    assert len(kept) == logs.MOST_FILES
    assert all(path.stat().st_size == logs.MOST_BYTES for path in kept)


def test_a_link_in_a_files_place_is_not_followed(directory: Path, tmp_path: Path) -> None:
    (directory / ID).mkdir(parents=True)
    (tmp_path / "victim").write_text("mine")
    (directory / ID / "target-x.log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        logs.keep(ID, "target", [("x.log", b"evil")])
    assert (tmp_path / "victim").read_text() == "mine"


def test_the_newest_are_kept_and_what_is_no_migrations_is_left_alone(directory: Path) -> None:
    directory.mkdir()
    (directory / "web.log").write_text("a container's output")
    (directory / "0000000000").mkdir()
    for number in range(logs.MOST_DIRECTORIES + 3):
        name = f"{number:012x}"
        logs.keep(name, "source", [("dump.log", b"x")])
        os.utime(directory / name, ns=(0, number))
    last = f"{0xFF:012x}"
    logs.keep(last, "source", [("dump.log", b"x")])
    logs.keep(last, "target", [("restore.log", b"x")])
    moves = sorted(path.name for path in directory.iterdir() if len(path.name) == 12)
    assert len(moves) == logs.MOST_DIRECTORIES
    assert moves[0] == f"{4:012x}"
    assert moves[-1] == last
    assert sorted(path.name for path in (directory / last).iterdir()) == [
        "source-dump.log",
        "target-restore.log",
    ]
    assert (directory / "web.log").exists()
    assert (directory / "0000000000").exists()


def test_a_traceback_tells_the_causes_too() -> None:
    error = OSError("then")
    error.__cause__ = KeyError("first")
    name, text = logs.traceback_of(error)
    assert name == "traceback.txt"
    assert text.index(b"KeyError: 'first'") < text.index(b"OSError: then")


def test_what_our_packages_log_is_recorded_and_nothing_of_others() -> None:
    with logs.recorded() as recorder:
        logging.getLogger("checkpoint.host.run").debug("ran %s: status %d", ("true",), 0)
        logging.getLogger("paramiko.transport").debug("secret")
        logging.getLogger("migrate.migration").info("%s", "\udcff")
    logging.getLogger("migrate.migration").info("after the block")
    name, text = recorder.log("move.log")
    first, second = text.decode().splitlines()
    assert name == "move.log"
    assert re.fullmatch(
        rf"\d\d:\d\d:\d\d\.\d{{3}} {platform.node()} MainThread checkpoint.host.run: "
        r"ran \('true',\): status 0",
        first,
    )
    assert second.endswith("migrate.migration: \\udcff")


def test_the_record_is_bounded() -> None:
    with logs.recorded() as recorder:
        for number in range(logs.MOST_RECORDS + 7):
            logging.getLogger("migrate").debug("%d", number)
    lines = recorder.log("move.log")[1].splitlines()
    assert len(lines) == logs.MOST_RECORDS
    assert lines[0].endswith(b" 7")

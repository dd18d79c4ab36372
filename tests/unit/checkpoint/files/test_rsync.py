"""Tests of checkpoint/files/rsync.py: both ends in enclosures, joined by pipes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from checkpoint.errors import CommandFailed, ReceiverFailed
from checkpoint.files.beneath import TreeRoot
from checkpoint.files.rsync import Carry, Ending, Rsync, receiver_is_to_blame, served
from tests.unit.helpers.descendants import Descendants
from tests.unit.helpers.joined import Joined, change_root, root_state


def refusing(complaint: str) -> Carry:
    """Return a carry function that carries nothing: the other end ends before it answers."""

    def carry(
        words: Sequence[str], from_rsync: int, to_rsync: int, _: Callable[[], None]
    ) -> Ending:
        os.close(to_rsync)
        os.close(from_rsync)
        return Ending(status=1, complaint=complaint)

    return carry


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[Joined]:
    """Yield an rsync from one directory to another."""
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    with contextlib.closing(Joined(tmp_path / "source", tmp_path / "target")) as joined:
        yield joined


def test_a_whole_pass_makes_the_target_equal(joined: Joined, tmp_path: Path) -> None:
    (tmp_path / "source/a b").mkdir(mode=0o700)
    (tmp_path / "source/a b/file").write_bytes(bytes(3 << 20))
    (tmp_path / "target/old").touch()
    assert joined.rsync.whole().finish(60) > 0
    assert sorted(path.name for path in (tmp_path / "target").rglob("*")) == ["a b", "file"]
    assert (tmp_path / "target/a b").stat().st_mode & 0o777 == 0o700


def test_a_file_that_was_written_within_the_same_second_is_copied(
    joined: Joined, tmp_path: Path
) -> None:
    for side, content, mtime_ns in (("target", "old", 10**18), ("source", "new", 10**18 + 5)):
        (tmp_path / side / "file").write_text(content)
        os.utime(tmp_path / side / "file", ns=(mtime_ns, mtime_ns))
    joined.rsync.whole().finish(60)
    assert (tmp_path / "target/file").read_text() == "new"


def test_a_listed_pass_copies_the_named_files(joined: Joined, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "source" / name).write_text(name)
    running = joined.rsync.listed()
    running.finish(60, ["two", "none"])
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["two"]


def test_files_of_any_name_are_listed(joined: Joined, tmp_path: Path) -> None:
    """A byte may mean something at a name's start or end, alone, or in a directory's name."""
    source = os.fsencode(tmp_path / "source")
    names = []
    for byte in (bytes([number]) for number in range(1, 256) if number != ord("/")):
        for name in (byte, byte + b"x", b"x" + byte, b" " + byte, b"-" + byte):
            if name not in (b".", b"..") and not os.path.lexists(source + b"/" + name):
                with open(source + b"/" + name, "wb"):
                    names.append(os.fsdecode(name))
        inner = b"dir" + byte + b"/" + byte + b"y"
        os.makedirs(os.path.dirname(source + b"/" + inner), exist_ok=True)
        with open(source + b"/" + inner, "wb"):
            names += [os.fsdecode(os.path.dirname(inner)), os.fsdecode(inner)]
    running = joined.rsync.listed()
    running.finish(60, names)
    arrived = [
        str(path.relative_to(tmp_path / "target")) for path in (tmp_path / "target").rglob("*")
    ]
    assert sorted(arrived) == sorted(set(names))


def test_a_pass_of_the_root_copies_the_root_alone(joined: Joined, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "file").touch()
    (target / "kept").touch()
    change_root(source)
    joined.rsync.root().finish(60)
    assert [path.name for path in target.iterdir()] == ["kept"]
    assert root_state(target) == root_state(source)


def test_once_ready_both_ends_only_wait(joined: Joined, tmp_path: Path) -> None:
    descendants = Descendants()
    running = joined.rsync.listed()
    running.wait_ready(30)
    assert joined.began.is_set()
    names = descendants.new()
    assert names["rsync"] >= 2
    assert set(names) <= {"rsync", "sh", "cat"}, "no enclosure is being made any more"
    running.kill()


def test_a_pass_whose_other_end_fails_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with TreeRoot(tmp_path / "source") as root:
        running = Rsync(root.fd, refusing("")).listed()
        running.wait_ready(3600)
        with pytest.raises(CommandFailed):
            running.finish(60)


def test_a_directory_that_became_a_symlink_leads_to_nothing_of_the_host(
    joined: Joined, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("of the host")
    (tmp_path / "source/way").symlink_to(tmp_path)
    running = joined.rsync.listed()
    running.finish(60, ["way/secret"])
    assert list((tmp_path / "target").iterdir()) == []


def test_a_pass_that_is_ended_early_ends_the_other_end(joined: Joined) -> None:
    running = joined.rsync.listed()
    assert joined.began.wait(30)
    running.kill()
    assert joined.ended.wait(30)
    running.kill()


def test_the_targets_reason_is_told(tmp_path: Path) -> None:
    with TreeRoot(tmp_path) as root, pytest.raises(CommandFailed, match="no such tree"):
        Rsync(root.fd, refusing("no such tree\n")).whole().finish(60)


def test_the_targets_reason_is_told_when_the_list_is_not_read_to_its_end(tmp_path: Path) -> None:
    with TreeRoot(tmp_path) as root, pytest.raises(CommandFailed, match="no such tree"):
        Rsync(root.fd, refusing("no such tree\n")).listed().finish(60, ["x" * 200] * 10_000)


@pytest.mark.parametrize(
    ("status", "told", "complaint", "blamed"),
    [
        (
            12,
            "rsync: [sender] safe_write failed to write 4 bytes to socket: Broken pipe (32)\n"
            "the link broke",
            "the link broke",
            True,
        ),
        (12, "rsync: connection unexpectedly closed\nno such tree", "no such tree", True),
        (
            12,
            "rsync: [sender] safe_write failed to write 4 bytes to socket: Broken pipe (32)",
            "",
            False,
        ),
        (11, "rsync: [receiver] write failed: No space left on device (28)", "", True),
        (23, "rsync: [sender] read errors mapping: Input/output error (5)", "", False),
        (0, "", "", True),
        (14, "rsync: fork failed\n", "", False),
    ],
)
def test_whose_failure_ended_a_pass(status: int, told: str, complaint: str, blamed: bool) -> None:
    assert receiver_is_to_blame(status, told, Ending(status=1, complaint=complaint)) is blamed


def test_a_pass_of_which_nobody_knows_how_the_target_ended_has_failed(
    joined: Joined, tmp_path: Path
) -> None:
    def carry(*words: Any) -> Ending:
        joined.carry(*words)
        raise OSError(errno.EIO, "the status is lost")

    with (
        TreeRoot(tmp_path / "source") as root,
        pytest.raises(ReceiverFailed, match="the status is lost"),
    ):
        Rsync(root.fd, carry).whole().finish(60)


def test_many_errors_before_the_end_of_the_list_block_nothing(joined: Joined) -> None:
    """The names and the errors are each more than the pipes hold."""
    too_long = [f"{number:0300}" for number in range(2000)]
    with pytest.raises(CommandFailed, match="too long"):
        joined.rsync.listed().finish(60, too_long)


def test_what_the_target_cannot_write_is_the_targets_failure(
    joined: Joined, tmp_path: Path
) -> None:
    (tmp_path / "source/name").write_text("a file")
    (tmp_path / "target/name").mkdir()
    (tmp_path / "target/name/in the way").touch()
    running = joined.rsync.listed()
    with pytest.raises(ReceiverFailed, match="could not make way"):
        running.finish(60, ["name"])


def test_what_the_source_cannot_read_is_the_sources_failure(tmp_path: Path) -> None:
    unreadable = next(
        Path("/sys/bus").glob("*/drivers_probe")
        # sysfs(5) has files that even root can only write.
    )
    with contextlib.closing(Joined(unreadable.parent, tmp_path)) as joined:
        running = joined.rsync.listed()
        with pytest.raises(CommandFailed, match="Permission denied") as caught:
            running.finish(60, [unreadable.name])
    assert type(caught.value) is CommandFailed


@pytest.mark.parametrize(
    "words",
    [
        "rsync --server --sender -r . /tree/",
        "rsync --daemon . /tree/",
        "sh -c . x",
        "rsync --server -r /etc /tree/",
        "rsync --server",
        "",
    ],
)
def test_only_the_receiving_end_is_served(words: str) -> None:
    with pytest.raises(ValueError, match=r"rsync asks|unpack"):
        served(words.split())


def test_the_destination_is_the_tree_whatever_is_asked() -> None:
    assert served(["rsync", "--server", "-r", ".", "/etc/"]) == [
        "rsync",
        "--server",
        "-r",
        ".",
        "/tree/",
    ]

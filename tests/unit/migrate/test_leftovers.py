"""Tests of migrate/leftovers.py: what killed runs left goes with the next one.

Nothing goes that belongs to a living process.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.host import ram_directory, run
from checkpoint.host.listener import Listener
from migrate import leftovers
from tests.unit.helpers.checkout import ROOT

NAME, OTHER = "0123456789ab", "ba9876543210"
OWNER = "tests.unit.migrate.programs.owner"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a directory in which this host has all its files of the tool."""
    monkeypatch.setattr(ram_directory, "RUN", tmp_path / "run")
    monkeypatch.setattr(leftovers, "OUTGOING_IMAGES", tmp_path / "outgoing")
    monkeypatch.setattr(leftovers, "INCOMING_IMAGES", tmp_path / "images")
    yield tmp_path
    for path in sorted((tmp_path / "run").glob("*")):
        subprocess.run(
            ["umount", "--recursive", "--lazy", str(path)], check=False, capture_output=True
        )


def owner(here: Path, name: str) -> subprocess.Popen[str]:
    """Start another process that owns a directory in RAM, and return it when it does."""
    argv = [sys.executable, "-m", OWNER, str(here / "run"), name]
    started = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def sweep() -> list[str]:
    """Remove leftovers, and return what is told."""
    told: list[str] = []
    leftovers.sweep(told.append)
    return told


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process, and wait until it has ended."""
    with process:
        process.kill()


def test_what_a_killed_run_left_goes(here: Path) -> None:
    process = owner(here, NAME)
    assert ram_directory.abandoned() == {}
    kill(process)
    assert ram_directory.abandoned() == {NAME: 300_000 // 4096 * 4096 + 4096}
    (here / "run" / "something").mkdir()
    said = sweep()
    assert len(said) == 1
    assert NAME in said[0]
    assert sorted(path.name for path in (here / "run").iterdir()) == ["something"]
    assert str(here) not in Path("/proc/mounts").read_text()


def test_what_a_living_run_has_stays(here: Path) -> None:
    alive = owner(here, NAME)
    kill(owner(here, OTHER))
    sweep()
    assert [path.name for path in (here / "run").iterdir()] == [NAME]
    assert (here / "run" / NAME / "pages").exists()
    kill(alive)


def test_a_directory_whose_claim_was_taken_over_stays(here: Path) -> None:
    """The keeper takes over from an agent that was killed (checkpoint/memory/pager/keeper.py)."""
    process = owner(here, NAME)
    held = ram_directory.claim(here / "run" / NAME)
    kill(process)
    assert sweep() == []
    os.close(held)
    assert len(sweep()) == 1


def test_a_directory_in_use_stays_and_is_told_of(here: Path) -> None:
    kill(owner(here, NAME))
    with (here / "run" / NAME / "pages").open():
        (said,) = sweep()
    assert "cannot be removed" in said
    assert (here / "run" / NAME / "pages").exists()


def test_mounts_beneath_a_directory_go_too(here: Path) -> None:
    kill(owner(here, NAME))
    inner = here / "run" / NAME / "inner"
    inner.mkdir()
    run.run(["mount", "-t", "tmpfs", "inner", str(inner)])
    assert "was removed" in sweep()[0]
    assert str(here) not in Path("/proc/mounts").read_text()


def test_sockets_go_with_their_owner(here: Path) -> None:
    alive = owner(here, NAME)
    for name in (NAME, OTHER):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(here / "run" / f"{name}.control"))
    sweep()
    assert sorted(path.name for path in (here / "run").glob("*.control")) == [f"{NAME}.control"]
    kill(alive)


def test_a_directory_of_a_run_killed_between_mkdir_and_mount_goes(here: Path) -> None:
    (here / "run" / NAME).mkdir(parents=True)
    assert ram_directory.abandoned() == {NAME: 0}
    sweep()
    assert not (here / "run" / NAME).exists()


def test_images_on_disk_that_nobody_wants_go(here: Path) -> None:
    """Files to be sent go; files that came stay as far as they are wanted; claimed ones stay."""
    for name in ("outgoing/dead", "outgoing/live", *(f"images/{number}" for number in range(7))):
        (here / name).mkdir(parents=True)
        (here / name / "layer").touch()
        stamp = int(name[-1]) if name[-1].isdigit() else 0
        os.utime(here / name, ns=(stamp, stamp))
    for name in ("0.tar", "6.tar", "gone.tar"):
        (here / "images" / name).touch()
    held = [ram_directory.claim(here / name) for name in ("outgoing/live", "images/0")]
    assert sweep() == []
    assert [path.name for path in (here / "outgoing").iterdir()] == ["live"]
    assert sorted(path.name for path in (here / "images").iterdir()) == [
        "0",
        "0.tar",
        "3",
        "4",
        "5",
        "6",
        "6.tar",
    ]
    for fd in held:
        os.close(fd)


def test_a_sweep_of_nothing_makes_nothing(here: Path) -> None:
    assert sweep() == []
    assert ram_directory.abandoned() == {}
    assert list(here.iterdir()) == []


def test_a_socket_without_a_listener_goes(here: Path) -> None:
    """A socket with a listener stays, though its migration has no directory yet."""
    (here / "run").mkdir()
    dead, alive = here / "run" / f"{NAME}.trees", here / "run" / f"{OTHER}.trees"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(dead))
    listener = Listener(alive, lambda connection: connection.close(), "test")
    sweep()
    assert [path.name for path in (here / "run").iterdir()] == [alive.name]
    listener.close()
    sweep()
    assert list((here / "run").iterdir()) == []

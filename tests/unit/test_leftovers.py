"""Images are in RAM alone, and what killed runs left of them goes with the next one; nothing that lives does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.errors import CommandFailed
from checkpoint.host import ram_directory, run
from checkpoint.host.listener import Listener, has_listener
from migrate import leftovers

NAME, OTHER = "0123456789ab", "ba9876543210"
ROOT = Path(__file__).resolve().parent.parent.parent
#: Another process: it makes one, says so, and waits to be killed.
OWNER = """
import sys, time
from pathlib import Path
from checkpoint.host import ram_directory
ram_directory.RUN = Path(sys.argv[1])
with ram_directory.ram_directory(sys.argv[2], 1 << 20, print) as path:
    (path / "pages").write_bytes(bytes(300_000))
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(ram_directory, "RUN", tmp_path / "run")
    monkeypatch.setattr(leftovers, "OUTGOING_IMAGES", tmp_path / "outgoing")
    monkeypatch.setattr(leftovers, "INCOMING_IMAGES", tmp_path / "images")
    yield tmp_path
    for path in sorted((tmp_path / "run").glob("*")):
        subprocess.run(
            ["umount", "--recursive", "--lazy", str(path)], check=False, capture_output=True
        )


def owner(here: Path, name: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", OWNER, str(here / "run"), name]
    started = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def sweep() -> list[str]:
    """What it tells."""
    told: list[str] = []
    leftovers.sweep(told.append)
    return told


def kill(process: subprocess.Popen[str]) -> None:
    with process:
        process.kill()


def test_it_is_kept_out_of_swap(here: Path) -> None:
    told: list[str] = []
    with ram_directory.ram_directory(NAME, 1 << 20, told.append) as path:
        options = [
            line.split()[3]
            for line in Path("/proc/mounts").read_text().splitlines()
            if str(path) in line
        ]
        assert "noswap" in options[0].split(",")
        assert path.stat().st_mode & 0o777 == 0o700
    assert told == []
    assert not path.exists()


def test_a_directory_has_one_owner_that_is_alone(tmp_path: Path) -> None:
    alone = ram_directory.claim_alone(tmp_path)
    assert alone is not None
    assert ram_directory.claim_alone(tmp_path) is None
    assert not ram_directory.is_abandoned(tmp_path)
    os.close(alone)
    shared = ram_directory.claim(tmp_path)
    assert ram_directory.claim_alone(tmp_path) is None
    os.close(shared)
    assert ram_directory.claim_alone(tmp_path / "gone") is None
    assert ram_directory.is_abandoned(tmp_path)


@pytest.mark.parametrize("swaps", [True, False])
def test_a_kernel_that_cannot(here: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool) -> None:
    """... is told of, where there is anywhere to swap to."""

    def without_noswap(argv: list[str]) -> str:
        if any("noswap" in word for word in argv):
            raise CommandFailed(argv, 32, "bad option")
        return run.run(argv)

    monkeypatch.setattr(ram_directory, "run", without_noswap)
    monkeypatch.setattr(ram_directory, "_swaps", lambda: swaps)
    told: list[str] = []
    with ram_directory.ram_directory(NAME, 1 << 20, told.append) as path:
        assert os.path.ismount(path)
    assert ["swapped out" in line for line in told] == [True] * swaps


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


def test_what_lives_stays(here: Path) -> None:
    alive = owner(here, NAME)
    kill(owner(here, OTHER))
    sweep()
    assert [path.name for path in (here / "run").iterdir()] == [NAME]
    assert (here / "run" / NAME / "pages").exists()
    kill(alive)


def test_who_took_over_holds_it(here: Path) -> None:
    """As the keeper does of an agent that was killed (checkpoint/memory/pager/keeper.py)."""
    process = owner(here, NAME)
    held = ram_directory.claim(here / "run" / NAME)
    kill(process)
    assert sweep() == []
    os.close(held)
    assert len(sweep()) == 1


def test_what_is_in_use_stays_and_is_told_of(here: Path) -> None:
    kill(owner(here, NAME))
    with (here / "run" / NAME / "pages").open():
        (said,) = sweep()
    assert "cannot be removed" in said
    assert (here / "run" / NAME / "pages").exists()


def test_mounts_in_it_go_too(here: Path) -> None:
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


def test_killed_between_mkdir_and_mount(here: Path) -> None:
    (here / "run" / NAME).mkdir(parents=True)
    assert ram_directory.abandoned() == {NAME: 0}
    sweep()
    assert not (here / "run" / NAME).exists()


def test_images_on_disk(here: Path) -> None:
    """What was to be sent goes, what came stays as far as it is wanted, and nothing goes that somebody has."""
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


def test_nothing_to_sweep(here: Path) -> None:
    assert sweep() == []
    assert ram_directory.abandoned() == {}
    assert list(here.iterdir()) == []


ABORTS = """
import os, resource, sys
from checkpoint.host import memory, own_process
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
if sys.argv[1] == "kept":
    own_process.keep_to_itself()
if sys.argv[2] == "forked" and (pid := os.fork()):
    os._exit(os.WCOREDUMP(os.waitpid(pid, 0)[1]) and 77)
if sys.argv[2] == "executed":
    os.execl(sys.executable, sys.executable, "-c", "import os; os.abort()")
os.abort()
"""


@pytest.mark.parametrize(
    ("kept", "how", "dumps"),
    [
        ("not", "aborted", True),
        ("not", "forked", True),
        ("kept", "aborted", False),
        ("kept", "forked", False),
        ("kept", "executed", True),
    ],
)
def test_no_core(here: Path, kept: str, how: str, dumps: bool) -> None:
    """Nor of what is forked; what is executed instead, an engine or what it restores, is as it would be."""
    argv = [sys.executable, "-c", ABORTS, kept, how]
    pid = os.posix_spawn(sys.executable, argv, {**os.environ, "PYTHONPATH": str(ROOT)})
    _, status = os.waitpid(pid, 0)
    for core in ROOT.glob("core*"):
        if core.is_file():
            core.unlink()
    seen = os.waitstatus_to_exitcode(status) == 77 if how == "forked" else os.WCOREDUMP(status)
    assert seen is dumps
    if how != "forked":
        assert os.WTERMSIG(status) == signal.SIGABRT


def test_pages_are_locked(here: Path) -> None:
    """And what is asked for is brought to hand all the same."""
    code = (
        "from checkpoint.host import memory, own_process; own_process.keep_to_itself(); "
        "held = bytearray(1 << 20); print(open('/proc/self/status').read().split('VmLck:')[1].split()[0]); "
        "import resource as r; before = r.getrusage(r.RUSAGE_SELF).ru_minflt; memory.bring_to_hand(64 << 20); "
        "print(r.getrusage(r.RUSAGE_SELF).ru_minflt - before)"
    )
    argv = [sys.executable, "-c", code]
    locked_kib, faults = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert int(locked_kib) > 1024
    assert int(faults) >= (64 << 20) // (2 << 20), "one a page, or one a huge page"


def test_who_may_not_lock_goes_on(here: Path) -> None:
    """Without CAP_IPC_LOCK there is a limit, at which later allocations would fail."""
    code = (
        "from checkpoint.host.own_process import keep_to_itself; "
        "keep_to_itself(); bytearray(64 << 20); print('went on')"
    )
    limited = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]
    argv = [*limited, sys.executable, "-c", code]
    assert (
        subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        == "went on\n"
    )


def test_a_socket_without_a_listener_goes(here: Path) -> None:
    """One with a listener stays, though its move has no directory yet."""
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


def test_whether_anybody_listens(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    assert not has_listener(path), "it was closed just now"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as slow:
        slow.bind(str(path))
        assert not has_listener(path), "it does not listen yet"
        slow.listen(0)
        assert [has_listener(path) for _ in range(4)] == [True] * 4, (
            "it takes no connection, and nobody waits for that"
        )

"""Tests of checkpoint/files/enclosure.py: what real programs see of the host, and can do to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from checkpoint.errors import CommandFailed
from checkpoint.files.beneath import TreeRoot
from checkpoint.files.enclose import KEPT_CAPABILITIES
from checkpoint.files.enclosure import Gate, start_enclosed
from checkpoint.host.ready import ready

MOUNTER = Path(__file__).parent / "programs/mounter.py"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[TreeRoot]:
    (tmp_path / "secret").write_text("of the host")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("of the container")
    with TreeRoot(tmp_path / "tree") as root:
        yield root


def enclosed(root: TreeRoot, argv: Sequence[str], **options: int) -> tuple[int, str, str]:
    """Run a program in an enclosure; return (status, output, errors)."""
    pipe = subprocess.PIPE
    process = start_enclosed(
        argv,
        root.fd,
        helpers=("cat", "ls"),
        stdout=pipe,
        stderr=pipe,
        **options,  # type: ignore[arg-type]
    )
    output, errors = process.communicate(timeout=30)
    return process.returncode, output.decode(), errors.decode()


def shell(root: TreeRoot, script: str) -> tuple[int, str, str]:
    return enclosed(root, ["sh", "-c", script])


def test_the_tree_and_the_programs_are_all_there_is(root: TreeRoot) -> None:
    status, output, errors = shell(
        root, "ls / /dev /tree; cat /tree/file; ls /etc /proc /root /run /sys /tmp"
    )
    assert status == 2
    assert output.endswith("of the container")
    listed = set(output.removesuffix("of the container").split())
    assert {"/dev:", "/tree:", "null", "file"} <= listed
    assert listed <= {
        "/:",
        "bin",
        "dev",
        "lib",
        "lib64",
        "tree",
        "usr",
        "/dev:",
        "null",
        "/tree:",
        "file",
    }
    assert errors.count("No such file") == 6


@pytest.mark.parametrize(
    "way", ["{host}/secret", "../secret", "../../../../../../../../../../..{host}/secret"]
)
def test_no_symlink_leads_to_the_host(root: TreeRoot, tmp_path: Path, way: str) -> None:
    (tmp_path / "tree/way").symlink_to(way.format(host=tmp_path))
    assert os.path.samefile(tmp_path / "tree/way", tmp_path / "secret") or way.startswith("../../")
    status, output, errors = shell(root, "cat /tree/way; echo planted > /tree/way")
    assert (status, output) == (2, "")
    assert "No such file" in errors or "cannot create" in errors
    assert (tmp_path / "secret").read_text() == "of the host"


def test_only_the_tree_can_be_written(root: TreeRoot, tmp_path: Path) -> None:
    shell(
        root,
        "echo new > /tree/new; echo x > /new; echo x > /dev/null; echo x > /usr/new; echo x > $0",
    )
    assert (tmp_path / "tree/new").read_text() == "new\n"
    status, output, _ = shell(root, "ls /; cat /dev/null")
    assert status == 0
    assert "new" not in output


def test_a_device_in_the_tree_cannot_be_opened(root: TreeRoot, tmp_path: Path) -> None:
    os.mknod(tmp_path / "tree/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    status, _, errors = shell(root, "cat /tree/zero")
    assert status == 1
    assert "Permission denied" in errors


def test_a_program_in_the_tree_cannot_be_run(root: TreeRoot, tmp_path: Path) -> None:
    (tmp_path / "tree/run").write_text("#!/usr/bin/sh\necho run\n")
    (tmp_path / "tree/run").chmod(0o4755)
    status, output, _ = shell(root, "/tree/run")
    assert (status, output) == (126, "")


def test_what_is_mounted_in_the_tree_is_not_of_it(root: TreeRoot, tmp_path: Path) -> None:
    (tmp_path / "tree/inner").mkdir()
    (tmp_path / "tree/inner/below").touch()
    subprocess.run(["mount", "-t", "tmpfs", "test", tmp_path / "tree/inner"], check=True)
    try:
        assert shell(root, "ls /tree/inner")[1] == "below\n"
    finally:
        subprocess.run(["umount", tmp_path / "tree/inner"], check=True)


def test_nothing_but_what_files_need_may_be_done(root: TreeRoot) -> None:
    """The test reads it from outside, since there is no /proc in the enclosure."""
    pipe = subprocess.PIPE
    process = start_enclosed(["cat"], root.fd, stdin=pipe, stdout=pipe)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"it runs")
        process.stdin.flush()
        assert os.read(process.stdout.fileno(), 100) == b"it runs"
        fields = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        descriptors = {int(name) for name in os.listdir(f"/proc/{process.pid}/fd")}
        process.stdin.close()
    allowed = sum(1 << number for number in KEPT_CAPABILITIES)
    assert int(fields["CapEff"], 16) & ~allowed == 0
    assert int(fields["CapBnd"], 16) & ~allowed == 0
    assert fields["NoNewPrivs"] == "1"
    assert descriptors == {0, 1, 2}


def test_the_tree_of_another_mount_namespace_is_reached_through_it(tmp_path: Path) -> None:
    """A container's tmpfs is such a tree."""
    (tmp_path / "place").mkdir()
    argv = ["unshare", "--mount", sys.executable, "-IS", str(MOUNTER), str(tmp_path / "place")]
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        stack.callback(holder.kill)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"made\n"
        device = os.stat(f"/proc/{holder.pid}/root{tmp_path}/place").st_dev
        root = stack.enter_context(TreeRoot.mounted(holder.pid, f"{tmp_path}/place", device))
        namespace = os.open(f"/proc/{holder.pid}/ns/mnt", os.O_RDONLY)
        stack.callback(os.close, namespace)
        status, output, _ = enclosed(root, ["ls", "/tree"], mount_namespace=namespace)
        assert (status, output) == (0, "inside\n")
        status, _, errors = enclosed(root, ["ls", "/tree"])
        assert status == 125
        assert "open_tree" in errors
        with pytest.raises(FileNotFoundError):
            TreeRoot.mounted(holder.pid, f"{tmp_path}/place", device + 1)
        with pytest.raises(OSError, match="symbolic links"):
            TreeRoot.mounted(holder.pid, "/proc/self/root/root", device)


def test_a_program_that_is_not_there_is_an_error(root: TreeRoot) -> None:
    with pytest.raises(CommandFailed, match="not installed"):
        enclosed(root, ["no-such-program"])


@pytest.mark.parametrize("number", [3, 64, 200])
def test_the_program_has_no_descriptor_that_it_was_started_by(root: TreeRoot, number: int) -> None:
    """By a descriptor of the tree, of whatever number, a program would get out of it."""
    gate, held = os.pipe()
    tree, held_high = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, number) for fd in (root.fd, held))
    os.close(held)
    pipe = subprocess.PIPE
    with start_enclosed(
        ["cat"], tree, gate=held_high, stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdin is not None
        os.close(held_high)
        os.close(tree)
        assert ready(gate, timeout_s=20), "the gate is let go of when the program runs"
        assert os.read(gate, 1) == b""
        deadline = time.monotonic() + 20
        while names := set(os.listdir(f"/proc/{process.pid}/fd")) - {"0", "1", "2"}:
            # The program's loader opens libraries for a moment. An inherited descriptor would stay.
            assert time.monotonic() < deadline, names
            time.sleep(0.01)
        process.stdin.close()
    os.close(gate)


def test_a_program_that_is_not_there_leaves_no_gate(root: TreeRoot) -> None:
    before = os.listdir("/proc/self/fd")
    gate = Gate()
    with pytest.raises(CommandFailed, match="not installed"), gate:
        start_enclosed(["no-such-program"], root.fd, gate=gate.held)
    assert len(os.listdir("/proc/self/fd")) == len(before)

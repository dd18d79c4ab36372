"""Tests of checkpoint/host/kernel.py: each system call, on the real kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.host import kernel

#: include/uapi/linux/openat2.h
RESOLVE_BENEATH = 8


def test_a_hole_reads_as_zeros_and_keeps_the_size(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 12288)
    with file.open("r+b") as opened:
        kernel.punch_hole(opened.fileno(), 4096, 4096)
    assert file.read_bytes() == b"x" * 4096 + bytes(4096) + b"x" * 4096


def test_a_path_out_of_the_tree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").touch()
    root = os.open(tmp_path / "inside", os.O_PATH)
    try:
        with pytest.raises(OSError, match=r"\.\./secret") as refused:
            kernel.openat2(root, "../secret", os.O_RDONLY, RESOLVE_BENEATH)
        assert refused.value.errno == errno.EXDEV
    finally:
        os.close(root)


def test_a_descriptor_of_another_process_is_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (tmp_path / "file").open("rb") as opened:
        pidfd = os.pidfd_open(os.getpid())
        copy = kernel.pidfd_getfd(pidfd, opened.fileno())
        try:
            assert copy != opened.fileno()
            assert os.path.sameopenfile(copy, opened.fileno())
        finally:
            os.close(copy)
            os.close(pidfd)


@pytest.mark.parametrize(
    ("call", "number"),
    [
        (lambda: kernel.setns(-1, kernel.CLONE_NEWNET), errno.EBADF),
        (lambda: kernel.punch_hole(-1, 0, 1), errno.EBADF),
        (lambda: kernel.pidfd_getfd(-1, 0), errno.EBADF),
        (lambda: kernel.inotify_init(1), errno.EINVAL),
        (lambda: kernel.inotify_add_watch(-1, "/", 1), errno.EBADF),
        (lambda: kernel.userfaultfd(1 << 30), errno.EINVAL),
    ],
)
def test_a_failure_is_raised_with_the_kernels_number(
    call: Callable[[], object], number: int
) -> None:
    with pytest.raises(OSError) as failed:
        call()
    assert failed.value.errno == number

"""A rootfs of very many files, a file that cannot be written, and the root directory itself."""

from __future__ import annotations

import pytest

from migrate.cli.exit_codes import CODES
from migrate.errors import RolledBack
from tests.rig import Container
from tests.rig.hosts import Hosts
from tests.rig.printing import goes_on_through_moves
from tests.rig.workload import ADDRESS

TIMEOUT_S = 900.0
#: argv: how many files. There are a thousand to a directory, with long names, and each has its own
#: number in it.
MAKE = """
import os, pathlib, sys
for number in range(int(sys.argv[1])):
    directory = pathlib.Path("many", str(number // 1000))
    if number % 1000 == 0:
        directory.mkdir(parents=True)
    (directory / f"file-{number:048}").write_text(str(number))
"""
#: Prints how many files are there, and the sum of the numbers in them.
COUNT = """
import pathlib
numbers = [int(path.read_text()) for path in pathlib.Path("many").rglob("file-*")]
print(len(numbers), sum(numbers))
"""
#: argv: a file, and its flags (FS_IOC_SETFLAGS of <linux/fs.h>, as chattr(1) sets them).
SET_FLAGS = """
import fcntl, struct, sys
with open(sys.argv[1]) as file:
    fcntl.ioctl(file, 0x40086602, struct.pack("l", int(sys.argv[2])))
"""
IMMUTABLE = 0x10
#: Changes the root directory itself, and looks whether it is as the last change made it.
CHANGING = """
import os, time
number = 0
os.chmod("/", 0o700)
os.utime("/", (0, 0))
while True:
    for _ in range(20):
        found = os.stat("/")
        if (found.st_mode & 0o777, found.st_mtime_ns) != (0o700 | number % 64, number * 10**9):
            print(f"/ has {oct(found.st_mode)} and {found.st_mtime_ns}, not {number}", flush=True)
        number += 1
        os.chmod("/", 0o700 | number % 64)
        os.utime("/", (0, number))
        time.sleep(0.02)
    print("goes on", flush=True)
"""


def in_rootfs(container: Container, program: str, *words: str) -> str:
    """Run a Python program in the container's rootfs, on its node, and return what it prints."""
    argv = ["env", "--chdir", f"{container.bundle}/rootfs", "python3", "-c", program, *words]
    return container.node.run(argv, timeout=TIMEOUT_S).stdout.strip()


def test_all_of_very_many_files_arrive(hosts: Hosts, request: pytest.FixtureRequest) -> None:
    """The list of them is longer than one message may be."""
    files = request.config.getoption("--files")
    container = hosts.alpha.start_container("many", ip=ADDRESS, argv=["sleep", "100000"])
    in_rootfs(container, MAKE, str(files))
    container, _ = hosts.move(container, timeout=TIMEOUT_S)
    assert in_rootfs(container, COUNT) == f"{files} {sum(range(files))}"


def test_a_file_that_the_target_cannot_write_fails_the_move(hosts: Hosts) -> None:
    """rsync on the source learns of such a file only by how rsync on the target ends."""
    container = hosts.alpha.start_container("stuck", ip=ADDRESS, argv=["sleep", "100000"])
    file = f"{container.bundle}/rootfs/stuck"
    hosts.alpha.run(["sh", "-c", f"echo old > {file}"])
    container, _ = hosts.move(container)
    hosts.beta.run(["sh", "-c", f"echo new > {file}"])
    hosts.alpha.run(["python3", "-c", SET_FLAGS, file, str(IMMUTABLE)])
    try:
        failed = hosts.migrate(hosts.beta, "stuck", "alpha")
    finally:
        hosts.alpha.run(["python3", "-c", SET_FLAGS, file, "0"])
    assert failed.returncode == CODES[RolledBack], failed.stderr
    assert "the target failed: rsync" in failed.stderr
    assert container.status == "running"
    hosts.move(container)
    assert hosts.alpha.run(["cat", file]).stdout == "new\n"


def test_the_root_directory_itself_stays_as_it_was_left(hosts: Hosts) -> None:
    """The container changes it all the time; after each move it is as the container left it."""
    argv = ["python3", "-c", CHANGING]
    container = hosts.alpha.start_container("root", ip=ADDRESS, argv=argv)
    goes_on_through_moves(hosts, container)

"""The content of a container's tmpfs mounts is there on the target, and is made there once."""

import json

import pytest

from tests.rig import Container, Workload
from tests.rig.hosts import Hosts
from tests.rig.printing import goes_on_through_moves
from tests.rig.without import Without
from tests.rig.workload import ADDRESS, command

LOG = "/dev/shm/log"  # noqa: S108  (of a container)
#: Makes every kind of file that tar carries, and a file with a hole of 40 MiB.
MAKE = """
import os, socket
os.chdir("/dev/shm")
os.mkdir("private", 0o750)
open("private/secret", "w").write("s")
os.chown("private/secret", 1, 2)
os.link("private/secret", "linked")
os.symlink("private/secret", "symbolic")
os.mkfifo("fifo", 0o600)
os.mknod("/dev/shm/zero", 0o20666, os.makedev(1, 5))
with open("with a hole", "wb") as sparse:
    sparse.truncate(50 << 20)
    sparse.seek(40 << 20)
    sparse.write(b"end of the hole")
os.utime("private", (1, 2))
"""
#: Stores to files by mappings that exist for a moment, and looks whether the last store is still
#: there.
MAPPING = """
import mmap, os, time
files = ["/dev/shm/short", "/dev/shm/kept", "/dev/in-dev"]
for path in files:
    with open(path, "wb") as file:
        file.write(bytes(8192))
kept = os.open(files[1], os.O_RDWR)
number = 0
while True:
    for path in files:
        fd = kept if path == files[1] else os.open(path, os.O_RDWR)
        mapping = mmap.mmap(fd, 8192)
        found = int.from_bytes(mapping[:8], "little")
        if found != number:
            print(f"{path} has {found} and not {number}", flush=True)
        mapping[:8] = (number + 1).to_bytes(8, "little")
        mapping.close()
        if fd != kept:
            os.close(fd)
    number += 1
    if number % 20 == 0:
        print("goes on", flush=True)
    time.sleep(0.02)
"""
#: Prints what MAKE made and which tmpfs mounts there are, without the masks under /proc: runc
#: binds those to the null device of the host on which it restores.
LOOK = """
import json, os
found = {}
for directory, _, names in os.walk("/dev/shm"):
    if not directory.startswith("/dev/shm/log"):
        for path in [directory, *(os.path.join(directory, name) for name in names)]:
            s = os.lstat(path)
            link = os.readlink(path) if os.path.islink(path) else ""
            owner = [s.st_mode, s.st_uid, s.st_gid, s.st_nlink]
            found[path] = [*owner, s.st_size, s.st_rdev, int(s.st_mtime), link]
found["blocks"] = os.stat("/dev/shm/with a hole").st_blocks
mounts = [line.split(" ", 4)[4] for line in open("/proc/self/mountinfo") if " - tmpfs " in line]
found["mounts"] = sorted(mount for mount in mounts if not mount.startswith("/proc/"))
print(json.dumps(found))
"""


def run(container: Container, script: str) -> str:
    """Run a Python program in a container, and return what it prints."""
    return container.node.run(["runc", "exec", container.name, "python3", "-c", script]).stdout


def look(container: Container) -> dict[str, object]:
    """Return what is in the container's tmpfs mounts (LOOK)."""
    return dict(json.loads(run(container, LOOK)))


@pytest.fixture
def appender(hosts: Hosts) -> Workload[Container]:
    """An appender that writes to a tmpfs; it has files open and mapped, and makes others."""
    writing = " ".join(command("appender", "--dir", LOG))
    argv = ["sh", "-c", f"mkdir -p {LOG}; exec {writing}"]
    return Workload.start(hosts.alpha, "appender", argv=argv)


def test_files_of_all_kinds_arrive_and_one_is_written_all_the_time(
    hosts: Hosts, appender: Workload[Container]
) -> None:
    run(appender.container, MAKE)
    before = look(appender.container)
    for _ in range(2):
        appender, report = hosts.move(appender)
        appender.goes_on("written")
        assert look(appender.container) == before
        assert report["bytes_sent"]["tmpfs"] > 0


def test_criu_archives_none_of_them(hosts: Hosts, appender: Workload[Container]) -> None:
    """CRIU's tar runs gzip, and would miss it."""
    with Without(hosts.alpha, "/usr/bin/gzip"), Without(hosts.beta, "/usr/bin/gzip"):
        appender, _ = hosts.move(appender)
    appender.verdict()


def test_a_tar_that_fails_on_the_target_is_told_and_rolled_back(
    hosts: Hosts, appender: Workload[Container]
) -> None:
    """A tmpfs cannot be too small, since it has the container's own limits; tar can fail."""
    with Without(hosts.beta, "/usr/bin/tar"):
        hosts.beta.run(["cp", "/usr/bin/cat", "/usr/bin/tar"])  # it knows none of tar's options
        done = hosts.migrate(hosts.alpha, appender.name, "beta")
    assert done.returncode != 0
    assert "tar --extract --delay-directory-restore ended with status 1" in done.stderr
    assert appender.status == "running"
    appender.verdict()


def test_stores_by_mappings_that_are_gone_arrive(hosts: Hosts) -> None:
    argv = ["python3", "-c", MAPPING]
    container = hosts.alpha.start_container("mapping", ip=ADDRESS, argv=argv)
    goes_on_through_moves(hosts, container)


@pytest.mark.parametrize("way", ["--bind /dev/shm", "--bind /dev/shm/sub"])
def test_one_that_is_bound_twice_stays_one(hosts: Hosts, way: str) -> None:
    """A file that is written at one place is seen at the other.

    CRIU binds a directory of a mount that was made for it, too.
    """
    container = hosts.alpha.start_container("bound", ip=ADDRESS, argv=["sleep", "100000"])
    run(container, "import os; os.mkdir('/dev/shm/sub'); os.mkdir('/again')")
    inside = ["nsenter", f"--target={container.pid}", "--mount"]
    hosts.alpha.run([*inside, "mount", *way.split(), "/again"])
    container, _ = hosts.move(container)
    again = "/again" if way.endswith("sub") else "/again/sub"
    run(container, f"open('{again}/file', 'w').write('once')")
    assert run(container, "print(open('/dev/shm/sub/file').read())") == "once\n"
    assert run(container, "import os; print(os.path.ismount('/again'))") == "True\n"

"""A real overlay, changes through it, and a copy of its lower layer that is to follow."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

from checkpoint.files.changes import TICK_NS, Changes
from checkpoint.files.rsync import PRESERVE

#: The time of modification of files that did not change.
OLD_NS = 1_000_000_000 * 10**9


def settle() -> None:
    """Wait until time stamps tell of changes from now on."""
    newest = time.time_ns()
    while time.time_ns() <= newest + 3 * TICK_NS:
        time.sleep(0.001)


class Mounted:
    """A real overlay, and a copy of its lower layer that is to follow."""

    def __init__(self, root: Path, options: str) -> None:
        self.lower, self.upper, self.merged, self.copy = (
            root / name for name in ("lower", "upper", "merged", "copy")
        )
        for directory in (self.lower, self.upper, root / "work", self.merged):
            directory.mkdir()
        self._fill()
        subprocess.run(["cp", "--archive", self.lower, self.copy], check=True)
        settle()
        directories = f"lowerdir={self.lower},upperdir={self.upper},workdir={root / 'work'}"
        mount("-t", "overlay", "-o", f"{directories},{options}", "overlay", str(self.merged))

    def _fill(self) -> None:
        for directory in ("etc/deep", "opt/app/lib", "srv/data", "usr/share", "var/log"):
            (self.lower / directory).mkdir(parents=True)
            (self.lower / directory / "file").write_text(f"lower {directory}")
            (self.lower / directory / "other").write_text(f"lower {directory}")
        (self.lower / "link").symlink_to("etc/deep/file")
        (self.lower / "flat").write_text("flat")
        for path in self.lower.rglob("*"):
            os.utime(path, ns=(OLD_NS, OLD_NS), follow_symlinks=False)

    def apply(self, found: Changes) -> None:
        """Make changes to the copy, as a migration does to the target."""
        for path in reversed(found.removed):
            victim = self.copy / path
            if victim.is_dir() and not victim.is_symlink():
                shutil.rmtree(victim)
            else:
                victim.unlink(missing_ok=True)
        listed = ["--ignore-times", "--files-from=-", "--from0", "--no-implied-dirs"]
        names = b"".join(os.fsencode(path) + b"\0" for path in found.changed)
        subprocess.run(
            ["rsync", *PRESERVE, *listed, f"{self.merged}/", f"{self.copy}/"],
            input=names,
            check=True,
        )
        for path, mtime_ns in found.directories:
            os.utime(self.copy / path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def unmount(path: Path) -> None:
    subprocess.run(["umount", "--recursive", path], check=True)


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Return what each file below a directory is, its content, and its other names.

    Times are those of files, in seconds, because rsync leaves times that differ by less.
    """
    files = {str(path.relative_to(root)): path for path in root.rglob("*")}
    found: dict[str, tuple[object, ...]] = {}
    for name, path in files.items():
        is_ = path.lstat()
        found[name] = (oct(is_.st_mode), is_.st_uid, is_.st_gid)
        if not stat.S_ISDIR(is_.st_mode):
            data = (
                path.readlink()
                if path.is_symlink()
                else path.read_bytes()
                if path.is_file()
                else None
            )
            links = sorted(other for other, file in files.items() if samefile(path, file))
            found[name] += (int(is_.st_mtime), data, links)
    return found


def samefile(path: Path, other: Path) -> bool:
    return os.path.samestat(path.lstat(), other.lstat())


def change_at_first(root: Path) -> None:
    """Make changes of every kind."""
    (root / "etc/deep/file").unlink()
    (root / "flat").unlink()
    shutil.rmtree(root / "srv/data")
    (root / "srv/data").mkdir()
    (root / "srv/data/new").write_text("in place of others")
    shutil.move(root / "opt/app", root / "opt/old")
    (root / "opt/old/lib/other").unlink()
    (root / "var/log/file").rename(root / "var/log/file.1")
    (root / "var/log/file").write_text("rotated")
    os.link(root / "var/log/other", root / "var/again")
    (root / "link").unlink()
    (root / "link").symlink_to("srv")
    (root / "usr/mine").mkdir(mode=0o700)
    (root / "usr/mine/file").write_text("mine")
    os.chown(root / "usr/mine/file", 1000, 1000)
    os.mkfifo(root / "usr/mine/fifo")


def change_again(root: Path) -> None:
    """Make further changes, also to what was changed before."""
    (root / "srv/data/new").write_text("more")
    (root / "srv/data/file").write_text("again")
    (root / "flat").mkdir()
    (root / "flat/file").write_text("not flat")
    shutil.move(root / "opt/old", root / "opt/older")
    shutil.rmtree(root / "usr/mine")
    (root / "usr/mine").write_text("a file")
    (root / "etc/deep/file").write_text("back")
    (root / "var/again").chmod(0o640)
    (root / "var/log/file.1").unlink()
    shutil.rmtree(root / "usr/share")
    shutil.move(root / "etc/deep", root / "usr/share")
    os.utime(root / "srv", ns=(1, OLD_NS + 7 * 10**9))

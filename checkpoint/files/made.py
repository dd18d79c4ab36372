"""Files and directories that a migration makes on the target, as things that can be removed.

They are the host's own: no container can write the directories that they are in.
"""

from __future__ import annotations

import base64
import contextlib
import os
from pathlib import Path
from typing import Annotated, NamedTuple

from checkpoint.files.beneath import empty_tree, is_somebodys_root, remove_tree
from checkpoint.host.identity import PathRecord, remove_empty
from checkpoint.schema import Length, Range
from checkpoint.undo import Made

#: The most characters of a file's former content, in base64.
MOST_CONTENT = 12 << 20
Id = Annotated[int, Range(0, (1 << 32) - 1)]


class MadeDirectory(Made):
    """A directory. With `whole` its content goes with it; otherwise it goes only if it is empty.

    A directory that is the root of somebody's processes by now stays.
    """

    path: PathRecord
    whole: bool

    def __str__(self) -> str:
        return f"directory {self.path.path}"

    def remove(self) -> None:
        if not self.whole:
            remove_empty(self.path)
        elif not is_somebodys_root(Path(self.path.path)):
            remove_tree(self.path)


class FilledDirectory(Made):
    """The content of a directory that was there before, and empty."""

    path: PathRecord

    def __str__(self) -> str:
        return f"content of {self.path.path}"

    def remove(self) -> None:
        empty_tree(self.path)


class Former(NamedTuple):
    """A file as it was before it was written: its content in base64, its mode and its owners."""

    content: Annotated[str, Length(MOST_CONTENT)]
    mode: Annotated[int, Range(0, 0o7777)]
    uid: Id
    gid: Id


class WrittenFile(Made):
    """The file `name` in `directory`, as it was before it was written; None if there was none."""

    directory: PathRecord
    name: str
    before: Former | None

    @classmethod
    def about_to_be(cls, path: Path) -> WrittenFile:
        """Return the file at `path` as it is now. Raises OSError."""
        before: Former | None = None
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = base64.b64encode(file.read()).decode()
            before = Former(content, found.st_mode & 0o7777, found.st_uid, found.st_gid)
        return cls(directory=PathRecord.of(path.parent), name=path.name, before=before)

    def __str__(self) -> str:
        return f"file {self.directory.path}/{self.name}"

    def remove(self) -> None:
        path = Path(self.directory.path) / self.name
        if not self.directory.is_same():
            return
        if self.before is None:
            path.unlink(missing_ok=True)
            return
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0)
        with open(fd, "wb") as file:
            os.fchown(fd, self.before.uid, self.before.gid)
            os.fchmod(fd, self.before.mode)
            file.write(base64.b64decode(self.before.content))
        new.rename(path)

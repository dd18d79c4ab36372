"""The files of a container image on their way to an engine that does not have it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from checkpoint.files.beneath import remove_tree
from checkpoint.host.identity import PathIdentity
from checkpoint.host.ownership import private_directory
from checkpoint.host.ram_directory import claim, claim_alone
from migrate.leftovers import INCOMING_IMAGES


class ArrivingImage:
    """The directory that takes the files, this migration's alone until `tidy` is closed.

    An equal `key` goes on with the files that an earlier migration has brought.
    """

    def __init__(self, key: str, migration_id: str, tidy: contextlib.ExitStack) -> None:
        directory = INCOMING_IMAGES / key
        private_directory(directory)
        # The same image may be arriving for another container.
        if (claimed := claim_alone(directory)) is None:
            directory = INCOMING_IMAGES / f"{key}-{migration_id}"
            private_directory(directory)
            claimed = claim(directory)
        tidy.callback(os.close, claimed)
        self._directory = PathIdentity(directory)
        tidy.callback(self._directory.close)

    @property
    def path(self) -> Path:
        """Where the files are."""
        return self._directory.path

    def load(self, load: Callable[[Path], None]) -> None:
        """Have the engine load the image by `load`, and remove the files."""
        load(self.path)
        # Only now: after a failure the next migration goes on from the files that are there.
        remove_tree(self._directory)

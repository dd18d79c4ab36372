"""The first entry of a journal, for tests."""

from __future__ import annotations

from typing import Any

from migrate.journal.records import SOURCE, TARGET, Begun, ProcessRecord

ID = "0123456789ab"
AT_MS = 1_795_000_000_000
BOOT = "01234567-89ab-cdef-0123-456789abcdef"


def begun(side: str = SOURCE, **fields: Any) -> Begun:
    """Return the beginning of the migration of `web` from alpha to beta."""
    of_the_source = {
        "destination": "root@beta:2222",
        "container_id": "c0ffee",
        "init": ProcessRecord(4242, 77),
    }
    common = {
        "at_ms": AT_MS,
        "boot_id": BOOT,
        "migration_id": ID,
        "side": side,
        "engine": "podman",
        "container_name": "web",
        "source": "alpha",
        "target": "beta",
    }
    return Begun(**{**common, **(of_the_source if side != TARGET else {}), **fields})

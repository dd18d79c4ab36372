"""The facts of the host on which this module runs, be it source or target."""

from __future__ import annotations

import os
import platform
import re

from checkpoint.criu import features, rpc
from checkpoint.criu.parent import kerndat_with_tracking
from checkpoint.engines.base import Engine
from checkpoint.errors import CommandFailed
from checkpoint.host import memory
from checkpoint.host.run import find_program, run
from checkpoint.memory.tracking import write_protection
from migrate.decisions.compatibility import Facts
from migrate.memory import encoding


def collect(engine: Engine, container_name: str) -> Facts:
    """Return the facts of this host, and whether its engine has a container of that name."""
    return Facts(
        hostname=platform.node(),
        kernel=platform.release(),
        machine=platform.machine(),
        python=platform.python_version(),
        uid=os.geteuid(),
        criu_version=features.version(),
        pycriu_error=rpc.WHY_MISSING,
        engine=engine.name,
        engine_version=_engine_version(engine.name),
        container_exists=engine.exists(container_name),
        nftables=features.has("network_lock_nftables"),
        lazy_pages=features.has("uffd-noncoop"),
        write_tracking=write_protection.available(),
        dumps_with_parent=kerndat_with_tracking() is not None,
        soft_dirty=features.tracks_soft_dirty(),
        rsync=find_program("rsync") is not None,
        iproute2=find_program("ip") is not None,
        available_bytes=memory.available_bytes(),
        encodings=encoding.AVAILABLE,
    )


def _engine_version(name: str) -> str | None:
    try:
        match = re.search(r"version (\S+)", run([name, "--version"]))
    except CommandFailed:
        return None
    return match[1] if match else None

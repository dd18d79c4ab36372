"""Facts of a host that lacks nothing."""

import dataclasses

from migrate.decisions.compatibility import Facts


def facts(**changes: object) -> Facts:
    """Return the facts of a host that lacks nothing, but for what `changes` say."""
    good = Facts(
        hostname="host",
        kernel="6.18.1-amd64",
        machine="x86_64",
        python="3.14.0",
        uid=0,
        criu_version=40201,
        pycriu_error=None,
        engine="runc",
        engine_version="1.3.6",
        container_exists=False,
        nftables=True,
        lazy_pages=True,
        write_tracking=True,
        dumps_with_parent=True,
        soft_dirty=False,
        rsync=True,
        iproute2=True,
        available_bytes=1 << 40,
        encodings=("raw",),
    )
    return dataclasses.replace(good, **changes)  # type: ignore[arg-type]

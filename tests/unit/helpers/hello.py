"""The first message of a coordinator, for tests of the agent."""

from __future__ import annotations

from migrate.wire import protocol


def hello(name: str = "c", *, engine: str = "runc") -> protocol.Hello:
    """Return the Hello of a migration of the container `name`, with an id made of the name.

    A Hello that is sent needs a name of hexadecimal digits, since an id has no others.
    """
    return protocol.Hello(
        version=protocol.PROTOCOL_VERSION,
        migration_id=f"{name:0>12}",
        source="alpha",
        engine=engine,
        container_name=name,
        traces=False,
    )

"""scripts/demo: a redis moves to another host and back, and its client notices two short waits."""

from __future__ import annotations

import os
import sys

from tests.rig import Container, Redis, Rig
from tests.rig.hosts import Hosts, Report
from tests.rig.workload import start_redis

MIB = 128


def main() -> int:
    """Show two moves. Return 0 if the connection never broke and nothing was lost."""
    print("Two hosts, alpha and beta: namespaces of this machine, each with its own sshd.")
    rig = Rig(f"demo-{os.getpid()}")
    rig.up()
    try:
        return show(Hosts.of(rig))
    finally:
        rig.down()


def show(hosts: Hosts) -> int:
    """Start a redis, fill it, move it there and back, and tell what its client saw."""
    redis = start_redis(hosts.alpha)
    redis.fill(MIB)
    digest = redis.digest()
    print(f"redis runs in a runc container on alpha with {digest['keys']} keys, {MIB} MiB of data.")
    print("A client on the switch increments a counter every millisecond over one TCP connection.")
    with redis.client() as client:
        for _ in range(2):
            client.mark("before")
            redis, report = move(hosts, redis)
            window = client.mark("after")
            print(f"  blackout the client saw  {window['worst_gap_ms']:8.1f} ms")
            tell(report)
        seen = client.finish()
    whole = seen["contiguous"] and not seen["error"] and redis.digest() == digest
    count = f"The client counted to {seen['last']} over one connection"
    print(f"\n{count} with {seen['reconnects']} reconnects.")
    print("Every key has its value." if whole else f"NOT as it should be: {seen}")
    return 0 if whole else 1


def move(hosts: Hosts, redis: Redis[Container]) -> tuple[Redis[Container], Report]:
    """Print the command of a move, and run it."""
    source, target = redis.node, hosts.other(redis.node)
    print(f"\n{source.name}$ migrate redis {target.name}", flush=True)
    return hosts.move(redis)


def tell(report: Report) -> None:
    """Print the figures of a move."""
    print(f"  downtime, by the tool    {report['downtime_us'] / 1000:8.1f} ms")
    for phase in report["phases"]:
        print(f"    {phase['name']:<22} {phase['length_us'] / 1000:8.1f} ms")
    kinds = ", ".join(f"{kind} {size:,}" for kind, size in report["bytes_sent"].items())
    frozen = f"{report['frozen_bytes_sent']:,} of them while frozen"
    print(f"  bytes sent               {kinds}; {frozen}")


if __name__ == "__main__":
    sys.exit(main())

"""scripts/demo: a redis moves to another host and back, and its client never notices but for two short waits."""

from __future__ import annotations

import json
import os
import sys

from tests.clients import REDIS_PORT, RedisClient, ask, redis_data, redis_digest
from tests.rig import Rig, until

ADDRESS = "10.77.0.50"
MIB = 128
REDIS = ["redis-server", "--bind", "0.0.0.0", "--save", "", "--protected-mode", "no"]  # noqa: S104 - in the rig


def main() -> int:
    """Show it. Exit 0 if the connection never broke and nothing was lost."""
    rig = Rig(f"demo-{os.getpid()}")
    print(
        "Two hosts, alpha and beta: namespaces of this machine, each with its own sshd, on one switch."
    )
    rig.up()
    try:
        return show(rig)
    finally:
        rig.down()


def show(rig: Rig) -> int:
    """Start, fill, move, move back, and tell what the client saw."""
    rig.node("alpha").start_container("redis", ip=ADDRESS, argv=REDIS)
    until(lambda: ask(rig.switch, ADDRESS, REDIS_PORT, "PING") == "+PONG", "redis to answer")
    redis_data(rig.switch, ADDRESS, "fill", "--mib", str(MIB))
    digest = redis_digest(rig.switch, ADDRESS)
    print(f"redis runs in a runc container on alpha with {digest['keys']} keys, {MIB} MiB of data.")
    print("A client on the switch increments a counter every millisecond over one TCP connection.")
    with RedisClient(rig.switch, ADDRESS) as client:
        for here, there in (("alpha", "beta"), ("beta", "alpha")):
            client.mark("before")
            print(f"\n{here}$ migrate redis {there}", flush=True)
            done = rig.node(here).run(["migrate", "redis", there, "--json"])
            report = json.loads(done.stdout)
            window = client.mark("after")
            print(f"  blackout the client saw  {window['worst_gap_ms']:8.1f} ms")
            print(f"  downtime, by the tool    {report['downtime_us'] / 1000:8.1f} ms")
            for phase in report["phases"]:
                print(f"    {phase['name']:<22} {phase['length_us'] / 1000:8.1f} ms")
            kinds = ", ".join(f"{kind} {size:,}" for kind, size in report["bytes_sent"].items())
            print(
                f"  bytes sent               {kinds}; {report['frozen_bytes_sent']:,} of them while frozen"
            )
        seen = client.finish()
    whole = seen["contiguous"] and not seen["error"] and redis_digest(rig.switch, ADDRESS) == digest
    print(
        f"\nThe client counted to {seen['last']} over one connection with {seen['reconnects']} reconnects."
    )
    print("Every key has its value." if whole else f"NOT as it should be: {seen}")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())

"""How long a move waits for others before it takes them for lost. No I/O here.

None of these is reached by a move that goes well. All are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The source's and the target's limits.

    `arm_s`: an engine's checkpoint or restore, from its start to its request to CRIU.
    `dump_s`: CRIU's dump, from that request until the container is frozen and dumped.
    `death_s`: the source's init, from SIGKILL to its death.
    `batch_s`: a batch of pages after the one before it. One of 1 MiB takes a while on a slow link.
    `restore_s`: CRIU's restore, from its request until the container is restored and held.
    `held_s`: the target's answer to Restore; it waits for pages and for CRIU, and digests memory.
    `end_s`: CRIU and its runtime, from a refusal until both have ended. They are killed then.
    `resume_s`: CRIU and then the engine, from GO to their end.
    `go_s`: the target's answer to GO; it waits for CRIU and for the engine, each `resume_s`, before it gives one.
    `ask_s`: an answer that needs nothing to be done.
    `abort_s`: the target's answer to Abort; its engine removes a container.
    `thaw_s`: the source's processes, from the end of the dump until they run again.
    `fill_s`: all of the container's memory filled in after the resume, at hundreds of MB a second.
    """

    arm_s: float = 30.0
    dump_s: float = 600.0
    death_s: float = 10.0
    batch_s: float = 30.0
    restore_s: float = 120.0
    held_s: float = 600.0
    end_s: float = 30.0
    resume_s: float = 30.0
    go_s: float = 90.0
    ask_s: float = 10.0
    abort_s: float = 180.0
    thaw_s: float = 2.0
    fill_s: float = 3600.0

"""The limits on how long a migration waits for others before they count as lost. No I/O here.

A migration that goes well reaches none of them. All are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of the source and of the target.

    `arm_s`: from the start of an engine's checkpoint or restore to its request to CRIU.
    `dump_s`: from the release of the DUMP request until the container is frozen and dumped; in a
    pre-dump, from one sign of CRIU to the next.
    `death_s`: from SIGKILL to the death of the source's init.
    `batch_s`: from one batch of pages to the next. A batch of 1 MiB takes a while on a slow link.
    `restore_s`: from the release of the RESTORE request until the container is restored and held.
    `held_s`: for the target's answer to Restore; it waits for pages and CRIU, and digests memory.
    `end_s`: from a refusal until CRIU and its runtime have ended. They are killed then.
    `resume_s`: from GO until CRIU says that the tasks run; then again until the engine has ended.
    `least_go_s`: for the target's answer to GO, if the freeze's own limit (--max-frozen) is nearer.
    `other_way_s`: the time that is left of the freeze's limit for another way to say GO.
    `go_s`: for another way to say GO, if the agent has not answered.
    `hello_s`: for the agent's first answer: it is sent, and it looks at its host.
    `answer_s`: for any answer of the target's for which no other limit is named; its engine may
    have to make something, or a large directory to be listed.
    `ask_s`: for an answer for which nothing needs to be done.
    `abort_s`: for the target's answer to Abort; its engine removes a container.
    `thaw_s`: from the end of the roll-back until the source's processes run again.
    `silence_s`: for the next frame from the coordinator, which sends a Beat several times as often.
    `send_s`: for one frame to be taken by the connection.
    `fill_s`: for the fill of the container's memory after the resume, at hundreds of MB a second.
    """

    arm_s: float = 30.0
    dump_s: float = 600.0
    death_s: float = 10.0
    batch_s: float = 30.0
    restore_s: float = 120.0
    held_s: float = 600.0
    end_s: float = 30.0
    resume_s: float = 30.0
    least_go_s: float = 2.0
    other_way_s: float = 0.5
    go_s: float = 90.0
    hello_s: float = 120.0
    answer_s: float = 120.0
    ask_s: float = 10.0
    abort_s: float = 60.0
    thaw_s: float = 2.0
    silence_s: float = 30.0
    send_s: float = 20.0
    fill_s: float = 3600.0

"""When to freeze: a pure decision over the history of pre-copy rounds, with its reason. No I/O here."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

#: What a freeze costs anyway dwarfs sending this much.
SMALL_BYTES = 2 << 20
#: A round that is not at least this much smaller than the one before is no progress.
SHRINK = 0.7
MAX_ROUNDS = 8


@dataclass(frozen=True, kw_only=True)
class Round:
    """One pass over the container's memory: what was dirty and how long sending it took."""

    bytes: int
    length_us: int


class Verdict(enum.Enum):
    """What to do next."""

    GO_ON = "another round"
    FREEZE = "freeze"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A verdict and the reason that is printed with it."""

    verdict: Verdict
    reason: str


def decide(rounds: Sequence[Round]) -> Decision:
    """What to do after these rounds. The first is the whole memory, so it is compared with nothing."""
    last = rounds[-1]
    size = f"{last.bytes / (1 << 20):.1f} MiB in round {len(rounds)}"
    if last.bytes <= SMALL_BYTES:
        return Decision(verdict=Verdict.FREEZE, reason=f"little is left: {size}")
    if len(rounds) >= MAX_ROUNDS:
        return Decision(verdict=Verdict.FREEZE, reason=f"{len(rounds)} rounds are enough: {size}")
    if len(rounds) > 2 and last.bytes > rounds[-2].bytes * SHRINK:
        return Decision(verdict=Verdict.FREEZE, reason=f"rounds no longer shrink: {size}")
    return Decision(verdict=Verdict.GO_ON, reason=f"still shrinking: {size}")

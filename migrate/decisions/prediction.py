"""The prediction of a freeze: what a container has, times what each item costs. No I/O here.

CRIU handles a container item by item, and the time that an item takes is much the same on hosts of
a kind. COSTS has these times as measured; docs/performance.md says how. What hosts of another kind
take is learned: each move corrects the costs that its prediction was made of (`corrected`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from migrate import text

MIB = 1 << 20
#: The speed of the link that is assumed until a round has measured it.
SPEED_BYTES_PER_S = 100e6


class Item(enum.Enum):
    """What a freeze takes time for. The value is its name for people."""

    FREEZE = "the freeze itself"
    WRITTEN = "written memory"
    #: Memory that no round sends: all of it goes through CRIU. Shared memory is not tracked.
    FROZEN = "memory that is only sent in the freeze"
    #: All memory, whose page tables CRIU walks.
    MEMORY = "memory"
    PROCESSES = "processes"
    #: The threads besides the main thread of each process.
    THREADS = "threads"
    CONNECTIONS = "connections"
    DESCRIPTORS = "descriptors"
    MAPPINGS = "mappings"
    FILES = "files"
    #: The trees in which files had changed at the last look.
    CHANGING = "trees with changing files"

    @property
    def key(self) -> str:
        """Its name in the report (docs/report.md), and in the file of learned costs."""
        return self.name.lower()


#: The time of one item, or of one byte of memory, in us. A move measures for itself what its link
#: takes for written memory.
COSTS: Mapping[Item, float] = {
    Item.FREEZE: 75_000,
    Item.FROZEN: 6_000 / MIB,
    Item.MEMORY: 44 / MIB,
    Item.PROCESSES: 7_000,
    Item.THREADS: 720,
    Item.CONNECTIONS: 140,
    Item.DESCRIPTORS: 50,
    Item.MAPPINGS: 28,
    Item.FILES: 8,
    Item.CHANGING: 60_000,
}
#: The items that are counted in bytes.
BYTES = frozenset({Item.WRITTEN, Item.FROZEN, Item.MEMORY})
#: A correction goes so far of the way to what was seen, and no further than that from COSTS.
RATE, FURTHEST = 0.5, 8.0
#: What is left of the corrections, on a logarithmic scale, when a prediction has kept a container
#: from being moved.
KEPT = 0.8

#: {item: how many there are}; of memory, how many bytes.
Content = Mapping[Item, int]
#: {item: the factor by which its cost differs from COSTS}, 1 for an item that is not there.
Factors = Mapping[Item, float]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The length of a freeze by its parts, in us, and the content that it is made of."""

    content: Content
    parts_us: Mapping[Item, int]

    @property
    def total_us(self) -> int:
        return sum(self.parts_us.values())

    def __str__(self) -> str:
        """Say for people how long the freeze is, and what the largest part of it is for."""
        said = f"a freeze of {text.duration(self.total_us)} is predicted"
        largest = max(self.parts_us, key=lambda item: self.parts_us[item])
        if largest is Item.FREEZE:
            return said
        count = self.content[largest]
        amount = f"{text.size(count)} of" if largest in BYTES else f"{count:,}"
        return f"{said}, {text.duration(self.parts_us[largest])} of it for {amount} {largest.value}"


def predict(content: Content, factors: Factors, speed_bytes_per_s: float | None) -> Prediction:
    """Predict the freeze of a container.

    `speed_bytes_per_s` is that of the link; None if it was not measured.
    """
    speed = speed_bytes_per_s or SPEED_BYTES_PER_S
    costs = {item: cost * factors.get(item, 1.0) for item, cost in COSTS.items()}
    costs[Item.WRITTEN] = 1e6 / speed
    if speed_bytes_per_s is not None:
        costs[Item.FROZEN] = max(costs[Item.FROZEN], 1e6 / speed)
    parts = {item: int(count * costs[item]) for item, count in content.items()}
    return Prediction(content=content, parts_us=parts)


def corrected(factors: Factors, parts_us: Mapping[Item, int], seen_us: int) -> dict[Item, float]:
    """Return the factors with which a prediction would have been nearer to what was seen.

    Only the whole freeze was seen. So an item's cost is corrected the more, the larger its part of
    the prediction was.
    """
    total_us = max(1, sum(parts_us.values()))
    ratio, found = max(1, seen_us) / total_us, dict(factors)
    shares = {item: us / total_us for item, us in parts_us.items() if us}
    # All corrections together come to RATE of the way.
    all_of_it = sum(share**2 for share in shares.values())
    for item, share in shares.items():
        if item is Item.WRITTEN:
            continue
        factor = found.get(item, 1.0) * ratio ** (RATE * share / all_of_it)
        found[item] = min(FURTHEST, max(1 / FURTHEST, factor))
    return found


def doubted(factors: Factors) -> dict[Item, float]:
    """Return factors that are nearer to 1, after a prediction that kept a container where it is.

    No freeze shows whether that prediction was right. If one bad hour could teach that any freeze
    is too long, nothing would ever be moved again.
    """
    return {item: factor**KEPT for item, factor in factors.items()}

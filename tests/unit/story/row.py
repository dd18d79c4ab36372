"""A row of the table of faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from migrate.limits import Limits
from tests.unit.story.channel import Straight, Wire
from tests.unit.story.engine import World
from tests.unit.story.model import Expected
from tests.unit.story.stage import PATIENT

NOWHERE: frozenset[str] = frozenset()
TARGET = frozenset({"target"})
#: Limits for rows where something never comes. All that comes has time enough.
IMPATIENT = Limits(
    arm_s=0.5,
    dump_s=0.5,
    death_s=0.2,
    batch_s=0.3,
    restore_s=0.5,
    held_s=2,
    end_s=0.3,
    resume_s=0.5,
    go_s=2,
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One migration, its fault and its end.

    `wire` and `world` arrange the fault. `later` is what an operator does about a held container,
    as arguments of `migratectl recover`. With `hangs`, CRIU or the runtime on the target does not
    end by itself. `cause` is the kind of the first error, if the report must name it. `also` are
    other ends, where the order of the two hosts' steps is left to chance.
    """

    name: str
    expected: Expected
    wire: Callable[[World], Wire] = lambda _: Straight()
    world: Callable[[World], None] = lambda _: None
    tmpfs: bool = False
    limits: Limits = PATIENT
    options: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    hangs: bool = False
    also: tuple[Expected, ...] = ()
    cause: str | None = None

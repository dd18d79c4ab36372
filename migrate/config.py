"""What the user may choose about a move. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, field

from migrate.convergence import Policy
from migrate.limits import Limits
from migrate.tracking import Mode


@dataclass(frozen=True, kw_only=True)
class Options:
    """The defaults suit a container that nobody knows anything about.

    `engine` None: the one that has a container of the name.
    `verify_memory`: all memory is compared before the resume, not only a sample of pages.
    `bandwidth_limit` in bytes per second holds what is sent while the container runs; the freeze has no time to save.
    """

    engine: str | None = None
    mode: Mode = Mode.AUTO
    policy: Policy = field(default_factory=Policy)
    bandwidth_limit: int | None = None
    limits: Limits = field(default_factory=Limits)
    verify_memory: bool = False

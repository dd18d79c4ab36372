"""The user's choices for a migration. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, field

from migrate.decisions.convergence import Policy
from migrate.decisions.write_tracking import Mode
from migrate.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a migration, whose defaults suit a container of which nothing is known.

    `engine` None: the engine that has a container of the name.
    `verify_memory`: compare all memory before the resume, not only a sample of pages.
    `bandwidth_limit`: the most bytes per second to send while the container runs, or None. The
    freeze is not limited: there is no time to spare in it.
    `reconnect_s`: how long a lost connection is tried again while the container runs; 0 is never.
    `debug`: have the agent send the records of its log.
    """

    engine: str | None = None
    mode: Mode = Mode.AUTO
    policy: Policy = field(default_factory=Policy)
    bandwidth_limit: int | None = None
    reconnect_s: int = 60
    limits: Limits = field(default_factory=Limits)
    verify_memory: bool = False
    debug: bool = False

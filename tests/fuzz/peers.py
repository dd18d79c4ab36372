"""Hostile hosts against the real coordinator and the real agent, in so many sequences.

scripts/fuzz starts them, and so do the tests.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.stateful import run_state_machine_as_test

from migrate import logs
from tests.fuzz.hostile_source import HostileSource
from tests.fuzz.hostile_target import PLANS, HostileTarget
from tests.fuzz.watch import Opened
from tests.unit.story.channel import Remote
from tests.unit.story.faults import Act
from tests.unit.story.stage import Stage, stage

#: So many steps has a sequence against an agent, after those that are as they should be.
STEPS = 14
#: So many sequences are drawn in one go. hypothesis remembers all of them, and each move collects
#: garbage among what it remembers.
PORTION = 500
#: A target is given up on after so long a silence; an agent answers in a hundredth of that.
SILENCE_S = 2.0


@functools.cache
def opened() -> Opened:
    """Return the only one of this process."""
    return Opened()


def _settings(sequences: int, *, seeded: bool) -> settings:
    return settings(
        max_examples=sequences,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=seeded,
        print_blob=not seeded,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def _portions(sequences: int) -> Iterator[int]:
    for done in range(0, sequences, PORTION):
        if done:
            print(f"{done} of {sequences} sequences", flush=True)
        yield min(PORTION, sequences - done)


def source(theatre: Stage, sequences: int, *, seeded: bool) -> str:
    """Have hostile sources talk to the agent, and return how often each answer was heard."""
    HostileSource.stage, HostileSource.opened = theatre, opened()
    HostileSource.heard.clear()
    for portion in _portions(sequences):
        run_state_machine_as_test(HostileSource, settings=_settings(portion, seeded=seeded))
    return ", ".join(f"{name} {count}" for name, count in HostileSource.heard.most_common())


def target(theatre: Stage, sequences: int, *, seeded: bool) -> str:
    """Have hostile targets talk to the coordinator.

    Return how often a move ended with each exit code.
    """
    HostileTarget.stage, HostileTarget.opened = theatre, opened()
    HostileTarget.codes.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Remote, "silence_s", SILENCE_S)
        for portion in _portions(sequences):
            _play_targets(_settings(portion, seeded=seeded))
    return ", ".join(f"{code}: {count}" for code, count in HostileTarget.codes.most_common())


def _play_targets(how: settings) -> None:
    @how
    @given(PLANS)
    def play_one(plan: tuple[dict[int, Act], dict[str, Act]]) -> None:
        HostileTarget.play(*plan)

    play_one()


SIDES: dict[str, Callable[..., str]] = {"source": source, "target": target}


def play(theatre: Stage, side: str, sequences: int, *, seeded: bool = False) -> str:
    """Play so many sequences with that side hostile. Raises what was found.

    What agents write to standard error is thrown away.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        return SIDES[side](theatre, sequences, seeded=seeded)


@contextlib.contextmanager
def staged(directory: Path) -> Iterator[Stage]:
    """Make a stage for the block, and have logs of moves that fail kept beside it."""
    with pytest.MonkeyPatch.context() as patch, stage(directory) as found:
        patch.setattr(logs, "DIRECTORY", directory / "kept")
        yield found

"""The decision when to freeze: a pure function of the pre-copy rounds. No I/O here.

A round sends what was written during the previous one, so rounds shrink only if the link is faster
than the container writes. Rounds go on while they shrink. When they no longer do, the freeze is
predicted and compared with the downtime allowed; what happens if the freeze would be longer is the
user's choice. Every decision comes with its reason.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from migrate import text
from migrate.decisions.prediction import Content, Factors, Item, Prediction, predict

#: The cost of sending this much is nothing against the fixed cost of a freeze.
SMALL_BYTES = 2 << 20
#: The size of a round as a share of the previous round's, above which it is no progress.
SHRINK = 0.7
#: The size of a round that measures the speed of the link.
TELLING_BYTES = 4 << 20
#: The bound of the freeze, unless the user sets one: so many times what was predicted.
FROZEN_MARGIN, LEAST_FROZEN_S = 10, 5.0


class OnNoConverge(enum.Enum):
    """The choice for a container that writes faster than its memory can be sent."""

    FREEZE = "freeze"
    ABORT = "abort"
    THROTTLE = "throttle"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The limits that the user sets. `timeout_s` bounds the rounds, not the migration.

    `max_frozen_s` bounds the freeze as it is, whatever was predicted.
    """

    max_downtime_ms: int = 300
    max_frozen_s: int | None = None
    max_rounds: int = 30
    timeout_s: int = 300
    on_no_converge: OnNoConverge = OnNoConverge.FREEZE

    def is_over(self, prediction: Prediction) -> bool:
        """Return whether a freeze would be longer than allowed."""
        return prediction.total_us / 1000 > self.max_downtime_ms

    def forbids(self, prediction: Prediction) -> bool:
        """Return whether a freeze would be too long, and is not to come then."""
        return self.is_over(prediction) and self.on_no_converge is OnNoConverge.ABORT

    def frozen_limit_s(self, predicted_us: int) -> float:
        """Return the bound of a freeze that was predicted to take so long."""
        if self.max_frozen_s is not None:
            return self.max_frozen_s
        return max(LEAST_FROZEN_S, FROZEN_MARGIN * predicted_us / 1e6)


@dataclass(frozen=True, kw_only=True)
class Round:
    """One pass over the container's memory.

    `bytes` were found written and were sent in `length_us`; for `held_us` of that time a bandwidth
    limit made each channel wait, on average.
    """

    bytes: int
    length_us: int
    held_us: int = 0


@dataclass(frozen=True, kw_only=True)
class History:
    """The facts that a decision is made of.

    `content` is what the container has besides memory that is written; `factors` correct what that
    costs (prediction.py). `elapsed_us` counts from the start of the first round. `slowed_to` is the
    share of its speed that the container still has.
    """

    rounds: Sequence[Round]
    content: Content
    factors: Factors
    elapsed_us: int
    slowed_to: float = 1.0


class Verdict(enum.Enum):
    """The next step of pre-copy."""

    GO_ON = "another round"
    SLOW_DOWN = "slow the container down, then another round"
    FREEZE = "freeze"
    GIVE_UP = "leave the container where it is"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A verdict, the reason that is printed with it, and the freeze expected."""

    verdict: Verdict
    reason: str
    prediction: Prediction


#: The share of its speed at which a container is as good as frozen; it is slowed down no further.
SLOWEST = 0.05


def decide(history: History, policy: Policy) -> Decision:
    """Decide what to do after the rounds so far, of which there is at least one."""
    rounds = history.rounds
    size = f"{text.size(rounds[-1].bytes)} in round {len(rounds)}"
    prediction = predicted(history)

    def decision(verdict: Verdict, reason: str) -> Decision:
        return Decision(verdict=verdict, reason=f"{reason}, {prediction}", prediction=prediction)

    over = policy.is_over(prediction)
    little = rounds[-1].bytes <= SMALL_BYTES
    ended = _why_no_more(history, policy)
    # The first round sends all memory, so that the second is smaller in any case and tells nothing.
    shrinks = len(rounds) <= 2 or rounds[-1].bytes <= rounds[-2].bytes * SHRINK
    if shrinks and not little and not ended:
        return decision(Verdict.GO_ON, f"still shrinking: {size}")
    why = f"little is left: {size}" if little else ended or f"rounds no longer shrink: {size}"
    if not over:
        return decision(Verdict.FREEZE, why)
    if policy.on_no_converge is OnNoConverge.ABORT:
        return decision(Verdict.GIVE_UP, f"{why}; over the {policy.max_downtime_ms} ms allowed")
    # Slowing down reduces what is written, not the fixed cost of a freeze.
    helps = not little and not ended and history.slowed_to > SLOWEST
    if policy.on_no_converge is OnNoConverge.THROTTLE and helps:
        return decision(Verdict.SLOW_DOWN, f"{why}; over the {policy.max_downtime_ms} ms allowed")
    return decision(
        Verdict.FREEZE, f"{why}; over the {policy.max_downtime_ms} ms allowed, frozen anyway"
    )


def predicted(history: History) -> Prediction:
    """Predict a freeze that came now."""
    rounds = history.rounds
    last = rounds[-1]
    if len(rounds) == 1:
        left = float(last.bytes)
    else:
        # The last round sent what was written during the previous one. At that rate, as long a time
        # as the last round took brings `left`.
        left = min(
            history.content[Item.MEMORY],
            last.bytes * last.length_us / max(1, rounds[-2].length_us),
        )
    content = {**history.content, Item.WRITTEN: int(left)}
    return predict(content, history.factors, _speed(rounds))


def _speed(rounds: Sequence[Round]) -> float | None:
    """Return the speed of the link in bytes per second, by the latest round that was large enough.

    The time that a bandwidth limit held the round back does not count.
    """
    for done in reversed(rounds):
        busy_us = done.length_us - done.held_us
        if done.bytes >= TELLING_BYTES and busy_us > 0:
            return done.bytes / busy_us * 1e6
    return None


def _why_no_more(history: History, policy: Policy) -> str:
    if len(history.rounds) >= policy.max_rounds:
        return f"--max-rounds {policy.max_rounds} is reached"
    if history.elapsed_us >= policy.timeout_s * 1_000_000:
        return f"{policy.timeout_s} s of rounds are enough"
    return ""

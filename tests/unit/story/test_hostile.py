"""A few sequences of hostile hosts, always the same ones. `scripts/fuzz peers` has many more."""

from __future__ import annotations

from tests.fuzz import peers
from tests.unit.story.stage import Stage


def test_an_agent_withstands_a_hostile_source(theatre: Stage) -> None:
    heard = peers.play(theatre, "source", 50, seeded=True)
    for answer in ("Failed", "Prepared", "Armed", "Held"):
        assert answer in heard, "the sequences lead somewhere"


def test_a_coordinator_withstands_a_hostile_target(theatre: Stage) -> None:
    codes = peers.play(theatre, "target", 25, seeded=True)
    assert "49:" in codes or "50:" in codes, "some are refused"

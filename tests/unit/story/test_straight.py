"""A migration where nothing goes wrong, with which the table of faults is compared."""

from __future__ import annotations

import pytest

from tests.unit.story.stage import Stage


@pytest.mark.parametrize("tmpfs", [False, True], ids=["files shared", "and a tmpfs"])
def test_a_migration_without_a_fault_takes_all_its_steps(theatre: Stage, tmpfs: bool) -> None:
    with theatre.world(tmpfs=tmpfs) as world, theatre.move(world) as play:
        ending = play.run()
        assert (ending.code, ending.running, ending.held) == (0, {"target"}, False), ending.said
        assert ending.states == [
            "prepared",
            "armed",
            "frozen",
            "held",
            "killing",
            "killed",
            "resumed",
            "done",
        ]
        assert world.events("source") == [
            "suspend restart policy",
            "checkpoint",
            "frozen",
            "pause monitor",
            "end monitor",
            "remove migrated",
        ]
        assert world.events("target") == [
            "prepare",
            "start restore",
            "restored",
            "resumed",
            "settle",
        ]
        play.check_memory()
        play.check_nothing_left()

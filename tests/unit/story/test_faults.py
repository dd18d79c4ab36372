"""A fault at every step of a migration: what hosts do, who runs the container, what is said."""

from __future__ import annotations

import pytest

from migrate.journal.book import listed
from tests.unit.story.engine import World
from tests.unit.story.faults import Fault
from tests.unit.story.model import MOVED, QUESTIONS
from tests.unit.story.processes import until
from tests.unit.story.row import Row
from tests.unit.story.stage import Ending, Play, Stage
from tests.unit.story.table import rows

ROWS = rows()


def test_the_table_is_large_and_has_no_row_twice() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 120


def test_the_table_has_every_question_of_a_migration(theatre: Stage) -> None:
    wire = Fault("none", "", lambda frame, _: [frame])
    with theatre.world() as world, theatre.move(world, wire) as play:
        assert play.run().code == 0
    asked = list(dict.fromkeys(wire.asked))
    assert [name for name in asked if name in QUESTIONS] == QUESTIONS
    assert set(asked) - set(QUESTIONS) == {"Freezing", "CriuImages"}, (
        "what is streamed is in the table by hand"
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_migration_with_a_fault_ends_as_the_table_says(theatre: Stage, row: Row) -> None:
    with theatre.world(tmpfs=row.tmpfs) as world:
        row.world(world)
        with theatre.move(world, row.wire(world), limits=row.limits, options=row.options) as play:
            ending = play.run()
            check(world, row, ending)
            check_the_commit_rule(world, ending)
            check_the_journals(world, play, ending)
            if row.later:
                recover(world, play, row)
            if row.hangs:
                world.end_processes()
            play.check_nothing_left()


def check(world: World, row: Row, ending: Ending) -> None:
    expected = row.expected
    report = ending.report
    found = {
        "code": ending.code,
        "error_kind": report["error_kind"],
        "outcome": report["outcome"],
        "states": tuple(ending.states),
        "source": tuple(world.events("source")),
        "target": tuple(world.events("target")),
        "running": frozenset(ending.running),
        "held": ending.held,
    }
    if found not in [vars(each) for each in row.also]:
        assert found == vars(expected), ending.said
    if row.cause is not None:
        assert report["cause_kind"] == row.cause
    if expected.code == 0:
        assert report["error"] is None
    else:
        # This need not be the last line, as the agent may write after it.
        told = f"migrate: {report['error']}"
        assert any(line.startswith(told) for line in ending.said.splitlines()), ending.said


def check_the_commit_rule(world: World, ending: Ending) -> None:
    """Check that one host runs the container, or that people are told that none does."""
    for line in world.lines():
        assert not line.get("source_runs"), "the target resumed while the source could still run"
    assert len(ending.running) < 2
    if not ending.running:
        assert ending.code in (54, 60, 63)
    if ending.code in (0, 51):
        assert ending.running == {"target"}
    if ending.code not in (0, 51, 54, 60, 63):
        assert ending.running == {"source"}


def check_the_journals(world: World, play: Play, ending: Ending) -> None:
    """Check that the journals of both hosts say what has come of the migration."""
    found = {each.account.begun.side: each for each in [*listed(), *world.target.do(listed)]}
    assert {each.account.begun.migration_id for each in found.values()} <= {play.id}
    outcome = ending.report["outcome"]
    if outcome == "refused":
        assert not found
        return
    source = found["source"]
    # A keeper, forked from both halves of the migration here, first closes what is not its own.
    until(lambda: not any(each.owned for each in listed()), "the source's journal to be let go")
    if outcome in ("killing", "killed"):
        assert (source.account.state, source.account.ended) == (outcome, None)
    elif ending.held or "not undone on the source" in ending.said:
        # The guardian goes on telling the target to drop its copy, and the next start undoes.
        assert (source.account.state, source.account.ended) == ("rolling back", None)
    elif ending.code == 51:
        # The guardian has tried again to clean up. What it could not do is tried by the next start.
        assert source.account.state in ("resumed", "done")
        assert (source.account.ended is None) == (source.account.state == "resumed")
    else:
        assert source.account.state == outcome
        assert source.account.ended is not None
        assert source.account.ended.error == ending.report["error"]
    if (target := found.get("target")) is None:
        assert "prepared" not in ending.states
    elif ending.held:
        lost = "could not be restored again" in ending.said  # but it is restored at the next GO
        state = "prepared" if lost else "held"
        assert (target.account.state, target.account.ended, target.owned) == (state, None, True)
    else:
        assert target.account.ended is not None
        dropped = "unprepare" in world.events("target")  # also what was lost twice after GO
        aborted = ending.running == {"source"} or dropped
        expected = {"aborted"} if aborted else {"finished", "resumed"}
        assert target.account.state in expected or ending.code == 54


def recover(world: World, play: Play, row: Row) -> None:
    """Check that an operator ends the migration either way with a held container."""
    assert play.recover(*row.later) == 0
    assert not play.settled()
    if "--go" in row.later:
        assert play.running() == {"target"}
        play.check_memory()
        assert tuple(world.events("target")) == MOVED.target
    else:
        assert play.running() == row.expected.running
        ends = world.events("target")[-3:]
        assert ends[1:] == ["delete", "unprepare"]
        assert ends[0] == "killed what was restored" or not row.expected.running
    check_the_commit_rule_of_journal(world)


def check_the_commit_rule_of_journal(world: World) -> None:
    for line in world.lines():
        assert not line.get("source_runs"), "the target resumed while the source could still run"

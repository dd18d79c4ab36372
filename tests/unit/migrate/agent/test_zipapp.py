"""Tests of migrate/agent/zipapp.py: the archive of the agent that goes to the target."""

from migrate.agent import zipapp


def test_an_agent_is_far_from_the_bound() -> None:
    assert len(zipapp.pack()) * 8 < zipapp.MOST_BYTES

"""Tests of the way of a container's output into the log of the target's engine.

migrate/files/engine_log.py reads the log of podman on the source, and
checkpoint/engines/podman/incoming.py takes its lines on the target.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from checkpoint.engines.podman import incoming
from checkpoint.engines.podman.incoming import IncomingPodmanContainer
from migrate.agent.client import AgentClient
from migrate.files import engine_log
from migrate.files.engine_log import OutputSync
from migrate.wire.protocol import Message
from tests.unit.helpers.podman import arriving, fake_podman, restore


class Printing:
    """An agent with an arrival, on behalf of a container that prints whenever lines are sent."""

    def __init__(self, arrival: IncomingPodmanContainer, log: Path, times: int) -> None:
        self._arrival, self._log, self._times = arrival, log, times
        self.asked = 0

    def stream(self, _: Message, parts: Sequence[bytes]) -> None:
        self.asked += 1
        assert self.asked < 1000, "it is never done with a log that goes on"
        self._arrival.take_output(b"".join(parts))
        if self._times:
            self._times -= 1
            with self._log.open("ab") as file:
                file.write(b"printed %d\n" % self._times * 10)


@pytest.mark.parametrize("times", [3, 1_000_000], ids=["a while", "without end"])
def test_the_end_of_a_long_log_arrives_though_the_container_prints_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    for module in (incoming, engine_log):
        monkeypatch.setattr(module, "MOST_OUTPUT_BYTES", 1000)
    monkeypatch.setattr(engine_log, "PIECE_BYTES", 100)
    source = tmp_path / "source.log"
    source.write_bytes(b"".join(b"line %d\n" % number for number in range(500)))
    log = fake_podman(tmp_path, monkeypatch)
    with arriving(tmp_path / "named") as arrival:
        agent = Printing(arrival, source, times)
        with contextlib.closing(OutputSync(cast(AgentClient, agent), source)) as sync:
            sync.copy()
        restore(arrival, tmp_path)
    found = log.read_bytes()
    assert 900 < len(found) <= 1000
    assert source.read_bytes().find(b"\n" + found) >= 0
    if times == 3:
        assert source.read_bytes().endswith(found)

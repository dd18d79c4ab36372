"""What a container has printed, from the log of podman on the source into that of podman on the target."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from checkpoint.engines.podman import incoming
from checkpoint.engines.podman.incoming import IncomingPodmanContainer
from checkpoint.errors import DataInvalid
from migrate.agent.client import AgentClient
from migrate.files import engine_log
from migrate.files.engine_log import OutputSync
from migrate.wire.protocol import Message

ID = "1f" * 32
#: Has no container, tells of its storage, and restores no more than a log.
PODMAN = """#!/bin/sh
case "$*" in
*exists*) exit 1 ;;
info*) echo '{{"store": {{"graphRoot": "{root}", "graphDriverName": "vfs"}}}}' ;;
*) for word; do
    case "$word" in --import=*) tar -xOf "${{word#*=}}" ctr.log > "{log}" ;; esac
done ;;
esac
"""
DESCRIPTION: dict[str, Any] = {
    "id": ID,
    "runtime": "crun",
    "cgroup": "",
    "image": {"id": "x", "name": "x", "layers": []},
    "networks": {},
    "volumes": {},
}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of podman on this host, which is the target, for the container."""
    path = tmp_path / "graph/vfs-containers" / ID / "userdata/ctr.log"
    path.parent.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/podman"
    program.write_text(PODMAN.format(root=tmp_path / "graph", log=path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return path


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """The path that the source names."""
    return tmp_path / "named"


@pytest.fixture
def arrival(log: Path, named: Path) -> Iterator[IncomingPodmanContainer]:
    with contextlib.ExitStack() as undo:
        made = IncomingPodmanContainer("x", {**DESCRIPTION, "log": str(named)}, undo)
        made.prepare(b"", shared=False)
        yield made


def restore(arrival: IncomingPodmanContainer, directory: Path) -> None:
    assert arrival.start_restore(directory, directory, os.environ).wait() == 0


def test_late_output_goes_to_the_log_of_this_podman(
    arrival: IncomingPodmanContainer, log: Path, named: Path, tmp_path: Path
) -> None:
    arrival.take_output(b"1\n2\n")
    restore(arrival, tmp_path)
    arrival.take_output(b"3\n")
    assert log.read_bytes() == b"1\n2\n3\n"
    assert not named.exists()


def test_late_output_without_a_log(
    arrival: IncomingPodmanContainer, log: Path, named: Path, tmp_path: Path
) -> None:
    restore(arrival, tmp_path)
    log.unlink()
    arrival.take_output(b"3\n")
    assert not log.exists()
    assert not named.exists()


def test_output_that_the_source_has_not_announced(log: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as undo:
        arrival = IncomingPodmanContainer("x", DESCRIPTION, undo)
        arrival.prepare(b"", shared=False)
        restore(arrival, tmp_path)
        arrival.take_output(b"3\n")
    assert log.read_bytes() == b""


@pytest.mark.parametrize("name", ["../../../x", "--all", "", "a/b"])
def test_an_id_that_is_none(name: str) -> None:
    with contextlib.ExitStack() as undo, pytest.raises(DataInvalid):
        IncomingPodmanContainer("x", {**DESCRIPTION, "id": name}, undo)


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ([b"0123\n", b"5678\n"], b"0123\n5678\n"),
        ([b"0123\n", b"5678\n", b"a\n"], b"5678\na\n"),
        ([b"0\n2\n4\n6\n8\n", b"a\n"], b"2\n4\n6\n8\na\n"),
        ([b"0\n2\n4\n6\n8\n", b"ab\n"], b"4\n6\n8\nab\n"),
        ([b"one\n", b"line of more than that\n", b"two\n"], b"two\n"),
        ([b"no end of a line"], b""),
    ],
)
def test_of_much_output_the_last_lines_are_kept(
    arrival: IncomingPodmanContainer,
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[bytes],
    kept: bytes,
) -> None:
    monkeypatch.setattr(incoming, "MOST_OUTPUT_BYTES", 10)
    for each in lines:
        arrival.take_output(each)
    restore(arrival, tmp_path)
    assert log.read_bytes() == kept


class Printing:
    """An agent with this arrival, and a container on the source that prints whatever is sent."""

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
def test_a_long_log_of_a_container_that_prints_meanwhile(
    arrival: IncomingPodmanContainer,
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    times: int,
) -> None:
    for module in (incoming, engine_log):
        monkeypatch.setattr(module, "MOST_OUTPUT_BYTES", 1000)
    monkeypatch.setattr(engine_log, "PIECE_BYTES", 100)
    source = tmp_path / "source.log"
    source.write_bytes(b"".join(b"line %d\n" % number for number in range(500)))
    agent = Printing(arrival, source, times)
    with contextlib.closing(OutputSync(cast(AgentClient, agent), source)) as sync:
        sync.copy()
    restore(arrival, tmp_path)
    found = log.read_bytes()
    assert 900 < len(found) <= 1000
    assert source.read_bytes().find(b"\n" + found) >= 0
    if times == 3:
        assert source.read_bytes().endswith(found)

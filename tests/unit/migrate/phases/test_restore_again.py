"""Tests of migrate/phases/restore_again.py: which files are sent once more."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace
from typing import Any

import pytest

from migrate.limits import Limits
from migrate.phases.restore_again import restore_again
from migrate.wire import protocol

OBEYED = protocol.Restore(image_files=3, image_bytes=9, batches=2, proof_seed=None, left_out=())


class Agent:
    """The target's agent, which tells at Arm which trees can be filled."""

    def __init__(self, *trees: str) -> None:
        self.trees, self.asked = trees, list[object]()

    def request(self, message: object, *, timeout_s: float) -> Any:
        assert timeout_s > 0
        self.asked.append(message)
        return protocol.Armed(trees=self.trees) if isinstance(message, protocol.Arm) else None

    def stream(self, message: object) -> None:
        self.asked.append(message)


@pytest.mark.parametrize(
    ("there", "copied"),
    [((), []), (("/",), ["/"]), (("/", "/data"), ["/"])],
    ids=["the container kept them", "a new container", "volumes are there since Prepare"],
)
def test_what_the_target_has_lost_is_sent_again(there: tuple[str, ...], copied: list[str]) -> None:
    again: list[str] = []

    def tree(destination: str) -> Any:
        def copy_again() -> int:
            again.append(destination)
            return 7

        return SimpleNamespace(destination=destination, kind="rootfs", copy_again=copy_again)

    agent, sent, until_ns = Agent(*there), dict[str, int](), list[int]()
    move: Any = SimpleNamespace(
        target=SimpleNamespace(agent=agent),
        source=SimpleNamespace(network=SimpleNamespace(macs_to_silence=())),
        dump=SimpleNamespace(edits=SimpleNamespace(nftables=True, one_cgroup=False)),
        options=SimpleNamespace(limits=Limits()),
        progress=SimpleNamespace(phase=lambda _: contextlib.nullcontext()),
        guardian=SimpleNamespace(expect=until_ns.append),
        report=SimpleNamespace(add_bytes=sent.__setitem__),
    )
    prepared: Any = SimpleNamespace(trees={"/data": None})
    armed: Any = SimpleNamespace(trees=[tree("/data"), tree("/")])
    restore_again(move, prepared, armed, OBEYED)
    assert again == copied
    assert sent == dict.fromkeys(["rootfs"] if copied else [], 7)
    assert [type(each).__name__ for each in agent.asked] == ["Arm", "Freezing", "Restore"]
    assert agent.asked[-1] is OBEYED
    left_s = (until_ns[-1] - time.monotonic_ns()) / 1e9
    assert 0 < left_s <= Limits().resume_s, "the second GO is not waited for as long as a restore"

"""Several conversations at once, and one that outlives the interposer's listener."""

from __future__ import annotations

import contextlib

from checkpoint.criu.interposer import Interposer
from tests.contract.harness import (
    LIMIT_S,
    Dump,
    Scene,
    release,
)


def test_conversations_do_not_wait_for_each_other(scene: Scene) -> None:
    """runc asks for CRIU's version in another conversation, while one may be held."""
    task = scene.task()
    with scene.dump_role() as role:
        held = scene.dump_of(task)
        role.request_gate.wait_reached(LIMIT_S)
        others = [scene.runtime("VERSION") for _ in range(3)]
        for other in others:
            assert other.finish()[-2]["success"]
        role.request_gate.open()
        role.done_gate.wait_reached(LIMIT_S)
        last = scene.runtime("FEATURE_CHECK")
        assert last.finish()[-2]["success"]
        role.refuse()
        held.finish()
        assert not held.named("response")[0]["success"]
        assert [stamp.name for stamp in role.stamps].count("request VERSION") == 0
    task.check_runs()


def test_a_conversation_outlives_the_listener(scene: Scene) -> None:
    """No shim is taken after the interposer's block, and a conversation that has begun goes on."""
    task = scene.task()
    with contextlib.closing(Dump(scene.images)) as role:
        with Interposer(scene.socket_path, role):
            runtime = scene.dump_of(task)
            role.request_gate.wait_reached(LIMIT_S)
        late = scene.runtime("VERSION")
        late.finish()
        assert late.named("eof")
        release(role)
        role.done_gate.open()
        assert runtime.finish()[-2]["success"]
        role.wait_over()
    task.wait_killed()

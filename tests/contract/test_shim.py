"""The shim, which stands in CRIU's place on the runtime's PATH."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.contract.harness import (
    LIMIT_S,
    Peer,
    Scene,
    until,
)


def run_criu(program: Path, arguments: list[str], env: dict[str, str]) -> tuple[int, str, str]:
    done = subprocess.run(
        [program, *arguments], env=env, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["check"], ["no-such-command", "two words", ""], []],
    ids=lambda a: a[0] if a else "none",
)
def test_other_commands_go_to_criu_unchanged(
    scene: Scene, peer: Peer, arguments: list[str]
) -> None:
    with scene.dump_role():
        direct = run_criu(peer.directory / "criu", arguments, scene.env)
        assert run_criu(scene.shim, arguments, scene.env) == direct
    if not peer.real:
        assert peer.recorded("argv") == [arguments, arguments]


def test_the_shim_ends_when_nobody_listens(scene: Scene, peer: Peer) -> None:
    runtime = scene.runtime("VERSION")
    runtime.finish()
    assert runtime.named("eof")
    assert runtime.named("ended")[0]["status"] > 0
    if not peer.real:
        assert peer.recorded("argv") == []


def test_criu_stays_the_runtimes_child(scene: Scene, peer: Peer) -> None:
    """The shim becomes CRIU: the process and its parent stay the same."""
    with scene.dump_role() as role:
        runtime = scene.dump_of(scene.task())
        role.request_gate.wait_reached(LIMIT_S)
        criu = runtime.wait_for("started")["criu"]
        program = peer.directory / "criu" if peer.real else Path(os.path.realpath("/proc/self/exe"))
        until(
            lambda: Path(f"/proc/{criu}/exe").readlink() == program.resolve(),
            "the shim to become CRIU",
        )
        fields = Path(f"/proc/{criu}/stat").read_text().rpartition(")")[2].split()
        assert int(fields[1]) == runtime.process.pid
        role.refuse()
        runtime.finish()


def test_only_the_owner_may_connect(scene: Scene) -> None:
    with scene.dump_role():
        assert scene.socket_path.stat().st_mode & 0o777 == 0o600
    assert not scene.socket_path.exists()


def test_a_cache_that_cannot_be_shown_to_criu_is_an_error(scene: Scene) -> None:
    kerndat = scene.directory / "move" / "kerndat"
    kerndat.mkdir()
    status, _, said = run_criu(scene.shim, ["--version"], scene.env)
    assert status == 1
    assert said.startswith(f"criu: {kerndat} cannot be shown as /run/criu.kdat: ")

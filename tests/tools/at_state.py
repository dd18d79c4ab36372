"""Run `migrate redis beta` on alpha, and have something happen when it has reached a state.

    python3 -m tests.tools.at_state ACT STATE [WORD ...] [-- OPTION ...]

ACT names a function of ACTS, which gets the migration and the words. The options are those of
`migrate`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from checkpoint.engines.docker import api
from migrate.cli.move import main as migrate
from migrate.decisions.state import State
from migrate.migration import Migration
from transport import ssh
from transport.errors import Unreachable
from transport.framing import FrameStream

#: A migration waits as long as this file is there (`wait`).
WAITS = Path("/run/waits")
#: It says what becomes of the next frame when a migration has waited (`wait`): "dropped frame to
#: the target".
SPOILS = Path("/run/spoils")


def crash(migration: Migration) -> None:
    """Print the migration's id, and kill the coordinator."""
    print(migration.migration_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def crash_both(migration: Migration) -> None:
    """Print the migration's id, and kill the guardian and the coordinator."""
    print(migration.migration_id, flush=True)
    os.kill(migration.guardian.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def stop(migration: Migration) -> None:
    """Print the migration's id, and stop the coordinator."""
    print(migration.migration_id, flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)


def lose_link(migration: Migration) -> None:
    """Close the connection to the target."""
    connection = migration.target.link._connection
    assert isinstance(connection, ssh.Connection)
    connection._transport.close()


def lose_host_alone(migration: Migration) -> None:
    """Lose the target as `lose_host` does, without a guardian that would still reach it."""
    os.kill(migration.guardian.pid, signal.SIGKILL)
    lose_host(migration)


def lose_host(migration: Migration) -> None:
    """Close the connection to the target, which is not reached any more."""

    def unreachable(_: object) -> None:
        raise Unreachable("the host is gone")

    lose_link(migration)
    ssh.open_socket = unreachable  # type: ignore[assignment]


def kill_criu(migration: Migration) -> None:
    """Kill the source's CRIU, which holds the frozen container."""
    assert migration.dump._conversation is not None
    migration.dump._conversation.kill_criu()


def kill_container(migration: Migration) -> None:
    """Kill the container, as somebody else may do."""
    os.kill(migration.source.init.pid, signal.SIGKILL)


def here(_: Migration, command: str) -> None:
    """Run a command on the source."""
    subprocess.run(["sh", "-c", command], check=True, timeout=60)


def on_target(_: Migration, command: str) -> None:
    """Run a command on the target."""
    subprocess.run(["ssh", "beta", command], check=True, stdout=2, timeout=60)


def on_target_and_fail(migration: Migration, command: str) -> None:
    """Run a command on the target; then the source fails."""
    on_target(migration, command)
    raise RuntimeError("a failure")


def lose_docker_and_fail(_: Migration) -> None:
    """Have docker on the source be unreachable; then the source fails."""
    api.SOCKET = "/nowhere"
    raise RuntimeError("a failure")


def wait(migration: Migration) -> None:
    """Tell in the file WAITS which processes the move has here, and wait until it is removed."""
    told = {
        "id": migration.migration_id,
        "coordinator": os.getpid(),
        "guardian": migration.guardian.pid,
    }
    beside = WAITS.with_suffix(".new")
    beside.write_text(json.dumps(told))
    beside.rename(WAITS)
    while WAITS.exists():
        time.sleep(0.002)
    if SPOILS.exists():
        how, _, way = SPOILS.read_text().strip().partition(" frame ")
        SPOILS.unlink()
        frames = migration.target.agent._frames
        (spoil_sent if way == "to the target" else spoil_received)(frames, how)


def spoil_sent(frames: FrameStream, how: str) -> None:
    """Spoil the next frame that is sent."""
    send = frames.send

    def spoiled(header: bytes, parts: Sequence[bytes | memoryview] = ()) -> None:
        frames.send = send  # type: ignore[method-assign]
        if how == "corrupted":
            send(corrupted(header), parts)
        elif how == "repeated":
            send(header, parts)
            send(header, parts)

    frames.send = spoiled  # type: ignore[method-assign]


def spoil_received(frames: FrameStream, how: str) -> None:
    """Spoil the next frame that is received."""
    receive = frames.receive

    def spoiled() -> tuple[bytearray, bytearray]:
        frames.receive = receive  # type: ignore[method-assign]
        header, payload = receive()
        if how == "corrupted":
            return bytearray(corrupted(header)), payload
        if how == "dropped":
            return receive()
        copies = [(bytearray(header), bytearray(payload))]
        frames.receive = lambda: copies.pop() if copies else receive()  # type: ignore[method-assign]
        return header, payload

    frames.receive = spoiled  # type: ignore[method-assign]


def corrupted(header: bytes | bytearray) -> bytes:
    """Return a header with one byte changed."""
    middle = len(header) // 2
    return bytes([*header[:middle], header[middle] ^ 0x15, *header[middle + 1 :]])


def migrate_again(migration: Migration, target: str) -> None:
    """Start another migration of the container, and print how it ended.

    The names of the container's nftables before and after it are printed, too.
    """

    def tables() -> str:
        netns = f"--net=/proc/{migration.source.container.pid}/ns/net"
        argv = ["nsenter", netns, "nft", "list", "tables"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    before = tables()
    argv = ["migrate", "redis", target]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    told = {"status": done.returncode, "said": done.stderr, "before": before, "after": tables()}
    print(json.dumps(told))


ACTS: dict[str, Callable[..., None]] = {
    act.__name__: act
    for act in (
        crash,
        crash_both,
        stop,
        lose_link,
        lose_host,
        lose_host_alone,
        kill_criu,
        kill_container,
        here,
        on_target,
        on_target_and_fail,
        lose_docker_and_fail,
        wait,
        migrate_again,
    )
}


def main() -> int:
    """Run the tool, whose states are watched, and return its exit code."""
    act, state, *words = sys.argv[1:]
    options: list[str] = []
    if "--" in words:
        cut = words.index("--")
        words, options = words[:cut], words[cut + 1 :]
    advance = Migration.advance

    def advance_and_act(migration: Migration, reached: State) -> None:
        advance(migration, reached)
        if reached is State[state]:
            ACTS[act](migration, *words)

    Migration.advance = advance_and_act  # type: ignore[method-assign,assignment]
    return migrate(["redis", "beta", *options])


if __name__ == "__main__":
    sys.exit(main())

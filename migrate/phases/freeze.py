"""The freeze: dump, send what is left, restore there, and hold. Everything here is blackout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from checkpoint.host import processes
from checkpoint.images.repair import repaired
from migrate import protocol
from migrate.context import Context
from migrate.copying.base import Copying
from migrate.rootfs_sync import RootfsSync
from migrate.state import State

CHUNK = 1 << 20


@dataclass
class Sent:
    """What went over while frozen; the target compares it with what arrived."""

    image_files: int = 0
    image_bytes: int = 0


def freeze(move: Context, copying: Copying) -> None:
    """Let CRIU freeze and dump."""
    assert move.dump is not None
    move.sent_before_freeze = move.sent_bytes
    move.limit.lift()
    if move.cpu_limit is not None:
        move.cpu_limit.restore()  # CRIU must not carry it over, nor be slowed by it
    with move.phase("dump"):
        copying.dump(move.dump)
    move.advance(State.FROZEN)


def transfer(move: Context, copying: Copying) -> Sent:
    """Send the pages written last, the image files, and what changed in the rootfs."""
    sent = Sent()
    with move.phase("transfer"):
        pids = processes.in_pid_namespace_of(move.container.pid)
        copying.send_last(move.images, pids)
        move.account_pages(copying.batches)
        for path in sorted(move.images.iterdir()):
            if path.suffix == ".img" and path.is_file():
                _send_image(move, path, sent)
        if move.rootfs is not None:
            _send_rootfs(move, move.rootfs, pids)
    return sent


def _send_rootfs(move: Context, rootfs: RootfsSync, pids: list[int]) -> None:
    """What changed since the first copy: usually nothing, or a few files."""
    found = rootfs.find_changes(pids)
    if found.removed:
        move.agent.request(protocol.Remove(paths=list(found.removed)), protocol.Done)
    if found.changed:
        move.report.add_bytes("rootfs", rootfs.copy_changes(found))
    if found.directories:
        move.agent.request(protocol.SetTimes(directories=[list(d) for d in found.directories]), protocol.Done)


def restore(move: Context, sent: Sent) -> None:
    """Release the armed restore; it comes back held: restored, stopped, network locked.

    Raises ConversationLost when meanwhile the source did not stay frozen: then only one of the two is
    the container's present, and it is not the restored one.
    """
    assert move.dump is not None
    with move.phase("restore"):
        assert move.pages is not None
        question = protocol.Restore(
            image_files=sent.image_files, image_bytes=sent.image_bytes, batches=move.pages.count
        )
        for name, at_ns in move.agent.request(question, protocol.Done).stamps:
            move.stage(name, "target", at_ns)
    move.dump.check_frozen()
    move.report.frozen_bytes_sent = move.sent_bytes - move.sent_before_freeze
    move.advance(State.HELD)


def _send_image(move: Context, path: Path, sent: Sent) -> None:
    data = memoryview(repaired(path))
    for start in range(0, max(len(data), 1), CHUNK):
        move.agent.stream(protocol.ImageChunk(name=path.name), [data[start : start + CHUNK]])
    sent.image_files += 1
    sent.image_bytes += len(data)
    move.report.add_bytes("images", len(data))

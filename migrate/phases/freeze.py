"""The freeze: dump, send what is left, restore there, and hold. Everything here is blackout."""

from __future__ import annotations

from pathlib import Path

from checkpoint.criu import log as criu_log
from checkpoint.criu.page_wire import wire_struct
from checkpoint.errors import ConversationLost, CriuFailed
from migrate import protocol
from migrate.context import Context
from migrate.page_relay import PageRelay
from migrate.state import State

DUMP_TIMEOUT_S = 600.0
CHUNK = 1 << 20


def freeze(move: Context) -> None:
    """Let CRIU freeze and dump; its pages go to the target while it writes them."""
    assert move.dump is not None
    assert move.source.criu_version is not None
    with move.phase("dump"):
        relay = PageRelay(move.dump.pages, wire_struct(move.source.criu_version), move.agent)
        relay.start()
        move.dump.request_gate.open()
        try:
            move.dump.done_gate.wait_reached(DUMP_TIMEOUT_S)
        except ConversationLost as error:
            log = criu_log.errors(move.directory / "images" / "dump.log")
            raise (CriuFailed("dump", log) if log else error) from error
        relay.join()
        move.report.pages, move.report.pages_zero = relay.pages, relay.pages_zero
        move.report.add_bytes("pages", relay.sent_bytes)
    move.advance(State.FROZEN)


def transfer(move: Context) -> int:
    """Send image files, and what changed in the rootfs since the first copy. Returns image files sent."""
    with move.phase("transfer"):
        files = [p for p in sorted((move.directory / "images").iterdir()) if p.suffix == ".img"]
        for path in files:
            _send_image(move, path)
        if move.rootfs is not None and (found := move.rootfs.find_changes(move.pids)):
            if found.removed:
                move.agent.request(protocol.Remove(paths=list(found.removed)), protocol.Done)
            move.report.add_bytes("rootfs", move.rootfs.copy_changes(found))
    return len(files)


def restore(move: Context, image_files: int) -> None:
    """Release the armed restore; it comes back held: restored, stopped, network locked."""
    with move.phase("restore"):
        question = protocol.Restore(image_files=image_files, pages=move.report.pages)
        for name, at_ns in move.agent.request(question, protocol.Done).stamps:
            move.stage(name, "target", at_ns)
    move.advance(State.HELD)


def _send_image(move: Context, path: Path) -> None:
    data = memoryview(path.read_bytes())
    for start in range(0, max(len(data), 1), CHUNK):
        move.agent.stream(protocol.ImageChunk(name=path.name), [data[start : start + CHUNK]])
    move.report.add_bytes("images", len(data))

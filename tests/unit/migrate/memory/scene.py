"""A receiver of pages with real page channels to it, without SSH."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoint.criu.page_server import PAGE_SIZE, PE_PRESENT
from migrate.agent.plug_command import plug_command
from migrate.memory import batches
from migrate.memory.batches import Extent
from migrate.memory.channels import PageChannels
from migrate.memory.receiver import PageReceiver
from migrate.wire import protocol
from migrate.wire.values import PageExtent
from transport.framing import Descriptors

BASE = 0x7F00_0000_0000
PATIENCE_S = 30.0


class Stream:
    """An SSH channel as the source sees it: the standard input of a plug on the other host."""

    def __init__(self, path: Path) -> None:
        self._plug = subprocess.Popen(
            ["sh", "-c", plug_command(path, "pages")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._plug.stdout is not None
        assert self._plug.stdout.read(1) == b"+", "it says that it is plugged in"
        self._plug.stdout.close()
        assert self._plug.stdin is not None
        self._pipe = Descriptors(
            os.dup(self._plug.stdin.fileno()), os.dup(self._plug.stdin.fileno())
        )
        self._plug.stdin.close()

    def read_into(self, view: memoryview) -> int:
        raise NotImplementedError

    def write(self, data: bytes | memoryview) -> None:
        self._pipe.write(data)

    def close(self) -> None:
        self._pipe.close()

    def end(self) -> None:
        """Wait until the plug has ended, which was told of no end when the receiver went."""
        assert self._plug.wait(10) == 1


class Scene:
    """A receiver that keeps what it is given in `taken`, and the streams to it."""

    def __init__(self, directory: Path, channels: int, patience_s: float = PATIENCE_S) -> None:
        self.taken: list[tuple[bool, int, int, bytes]] = []
        self.path = directory / "pages.sock"
        self.receiver = PageReceiver(self.path, channels, self._put, patience_s)
        self.receiver.__enter__()
        self.streams = [Stream(self.path) for _ in range(channels)]

    def _put(self, message: protocol.Pages, extents: Iterator[Extent]) -> None:
        self.taken += [
            (message.into_images, dst_id, vaddr, bytes(data))
            for dst_id, vaddr, _, _, data in extents
        ]

    def close(self) -> None:
        self.receiver.__exit__()
        for stream in self.streams:
            stream.end()
        assert not self.path.exists()


def pages_message(number: int, data: bytes, **changed: Any) -> protocol.Pages:
    """Return the message of a batch that holds `data`, with some of its fields changed."""
    extents = (PageExtent(0x101, BASE, len(data) // PAGE_SIZE, PE_PRESENT, False),)
    fields = {
        "extents": extents,
        "encoding": "raw",
        "digest": batches.digest_of(data),
        "into_images": False,
        "forget": (),
    }
    return protocol.Pages(number=number, **{**fields, **changed})


GOOD = b"a" * PAGE_SIZE


def submit(channels: PageChannels, page: int, content: bytes, *, into_images: bool = False) -> None:
    """Send content as a batch, for the pages from number `page` on."""
    buffer = channels.buffer()
    buffer[: len(content)] = content
    extent = PageExtent(
        0x101, BASE + page * PAGE_SIZE, len(content) // PAGE_SIZE, PE_PRESENT, False
    )
    channels.submit([extent], buffer, len(content), into_images=into_images)


def content(number: int) -> bytes:
    """Return content that is half compressible and half not, of a size that `number` decides."""
    return (bytes([number % 256]) * PAGE_SIZE + os.urandom(PAGE_SIZE)) * (1 + number % 40)

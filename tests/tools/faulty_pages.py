"""Run `migrate WORDS...` on the source, and have a batch of pages go wrong on its way.

    python3 -m tests.tools.faulty_pages FAULT NUMBER WORDS...

FAULT is `lost`, `damaged` or `twice`, of the batch of that NUMBER; `none`; or `uncompressed`, of
all batches.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from migrate.cli.move import main as migrate
from migrate.memory.channels import Job, PageChannels
from migrate.memory.encoding import EncodingChoice
from transport.framing import FrameStream


def install(fault: str, number: int) -> None:
    """Arrange for the fault of the batch of that number, in this process."""
    send_job, send_frame = PageChannels._send, FrameStream.send

    def changed(
        stream: FrameStream, header: bytes, parts: Sequence[bytes | memoryview] = ()
    ) -> None:
        payload = memoryview(bytearray(b"".join(parts)))
        if fault == "damaged":
            payload[len(payload) // 2] ^= 1
        send_frame(stream, header, [payload])
        if fault == "twice":
            send_frame(stream, header, [payload])

    def send(channels: PageChannels, channel: FrameStream, job: Job) -> None:
        if job.number != number or fault == "none":
            send_job(channels, channel, job)
        elif fault != "lost":
            FrameStream.send = changed  # type: ignore[method-assign,assignment]
            try:
                send_job(channels, channel, job)
            finally:
                FrameStream.send = send_frame  # type: ignore[method-assign]

    PageChannels._send = send  # type: ignore[method-assign,assignment]


def main() -> int:
    """Run the tool with the fault, and return its exit code."""
    fault, number, *words = sys.argv[1:]
    if fault == "uncompressed":
        EncodingChoice.next = lambda _: "raw"  # type: ignore[method-assign,assignment]
    else:
        install(fault, int(number))
    return migrate(words)


if __name__ == "__main__":
    sys.exit(main())

"""Run `migrate WORDS...` on the source, and have one byte of the memory change on the target.

    python3 -m tests.tools.damage PLACE SEED WORDS...

The agent does the damage, after the byte has arrived and the digest of its batch was checked.
PLACE is `store` (a page that the pager will serve), `image` (a page that CRIU reads) or `batch` (a
page on its way from a batch into the store). SEED says which byte.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from tests.tools import altered

#: Data of that size is of the workload's own mapping.
LARGE_BYTES = 256 << 10


def install(place: str, seed: str) -> None:
    """Arrange for the damage; the agent calls this."""
    {"store": damage_store, "image": damage_image, "batch": damage_batch}[place](
        random.Random(seed)  # noqa: S311
    )


def damage_store(drawn: random.Random) -> None:
    """Change a page of the largest range in the page store, when all memory has arrived."""
    from migrate.agent.received import Received
    from migrate.wire import protocol

    complete = Received.complete

    def complete_and_damage(received: Received, request: protocol.Restore) -> object:
        lazy = complete(received, request)
        image, start, end = max(
            ((i, *r) for i, pages in lazy.items() for r in pages), key=lambda p: p[2] - p[1]
        )
        address = drawn.randrange(start, end, 4096)
        page = bytearray(4096)
        received.store.read(image, address, memoryview(page))
        received.store.put(image, address, memoryview(flipped(page, drawn)))
        return lazy

    Received.complete = complete_and_damage  # type: ignore[method-assign,assignment]


def damage_image(drawn: random.Random) -> None:
    """Change a byte of the largest image file with pages, when all memory has arrived."""
    from migrate.agent.received import Received
    from migrate.wire import protocol

    complete = Received.complete

    def complete_and_damage(received: Received, request: protocol.Restore) -> object:
        lazy = complete(received, request)
        path = max(received.images.glob("pages-*.img"), key=lambda path: path.stat().st_size)
        with path.open("r+b") as file:
            at = drawn.randrange(path.stat().st_size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << drawn.randrange(8)]))
        return lazy

    Received.complete = complete_and_damage  # type: ignore[method-assign,assignment]


def damage_batch(drawn: random.Random) -> None:
    """Change a byte of one of the first ten large pieces that are put into the page store."""
    from checkpoint.memory.store import PageStore

    put, wait = PageStore.put, drawn.randrange(10)

    def damage_and_put(store: PageStore, image: int, vaddr: int, data: memoryview) -> None:
        nonlocal wait
        wait -= len(data) >= LARGE_BYTES
        if wait == -1 and len(data) >= LARGE_BYTES:
            data = memoryview(flipped(bytearray(data), drawn))
        put(store, image, vaddr, data)

    PageStore.put = damage_and_put  # type: ignore[method-assign,assignment]


def flipped(data: bytearray, drawn: random.Random) -> bytearray:
    """Return the data with one bit changed."""
    data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
    return data


def main() -> int:
    """Run the tool, whose agent installs the damage before it begins; return its exit code."""
    place, seed, *words = sys.argv[1:]
    return altered.migrate(
        f"from tests.tools import damage; damage.install({place!r}, {seed!r})", words
    )


if __name__ == "__main__":
    assert Path(altered.CHECKOUT).exists(), "this runs on a node of the rig"
    sys.exit(main())

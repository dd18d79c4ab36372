"""A pager in a process that a test can kill: mortal_pager.py DIRECTORY DST_ID PAGES DESCRIPTORS.

Its store has the pages of one task. It has DESCRIPTORS descriptors at most. It does what it is
told, with `pager` and `dies`.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoint.memory.pager import keeper, uffd_copy  # noqa: F401  (for code that the test sends)
from checkpoint.memory.pager.keeper import Keeper
from checkpoint.memory.pager.pager import Pager
from checkpoint.memory.store import PageStore
from checkpoint.memory.tracking.write_protection import PAGE_SIZE
from tests.unit.checkpoint.memory.pager.programs.layout import START, content
from tests.unit.checkpoint.memory.pager.programs.obedience import obey, take_channel

OWN = os.getpid()


def dies(function: Callable[..., Any], call: int, when: str) -> Callable[..., Any]:
    """Return a function that kills this process in its call number `call`.

    `when` is "before" or "after" the call of `function`. Calls in forked processes do not count.
    """

    def counted(*arguments: Any) -> Any:
        nonlocal call
        call -= os.getpid() == OWN
        if call == 0 and when == "before":
            os.kill(OWN, signal.SIGKILL)
        result = function(*arguments)
        if call == 0:
            os.kill(OWN, signal.SIGKILL)
        return result

    return counted


def made_pager(directory: Path, image: int, pages: int) -> Pager:
    store = PageStore(directory.parent)
    store.put(image, START, memoryview(b"".join(map(content, range(pages)))))
    ranges = {image: [(START, START + pages * PAGE_SIZE)]}
    return Pager(directory, store, ranges, Keeper(directory.parent), print)


if __name__ == "__main__":
    channel = take_channel()
    image, pages, descriptors = map(int, sys.argv[2:])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, most))
    pager = made_pager(Path(sys.argv[1]), image, pages)
    obey(channel, globals())

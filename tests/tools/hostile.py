"""One host that is hostile: a target that lies in one answer, or a source that sends what takes all RAM.

Run on the source as `python3 -m tests.tools.hostile LIE WORDS...`: `migrate WORDS...` with an agent that tells the LIE
and keeps what the source sends it because of that. With the LIE `zeros` the agent is as it always is but for a bound on
its memory, and tells how much it took; the source sends a batch of pages of which 4 TiB are zeros.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.tools import altered

#: On the target: all that came of files in tmpfs mounts.
LOOT = Path("/root/loot")
#: On the source: what no move has to do with. ... and a way there from the root of any container, by a symlink that
#: every container has, /dev/fd -> /proc/self/fd, resolved in the tool's own process.
SECRET = Path("/srv/secret/file")
WAY = f"/dev/fd/../root{SECRET.parent}"


def tmpfs_elsewhere(answer: Any) -> Any:
    """The first tmpfs mount of the container is at another path, which leads to a directory of the source."""
    return dataclasses.replace(answer, paths=type(answer.paths)([WAY, *answer.paths[1:]]))


def layers_by_path(answer: Any) -> Any:
    """A layer of the image is called like a file of the source; its archive there is removed once it was sent."""
    return dataclasses.replace(answer, layers=type(answer.objections)([f"sha256:{SECRET}"]))


#: PE_PRESENT of CRIU (criu/include/pagemap.h).
PRESENT = 4
BOUND_BYTES = 2 << 30
#: By name: the answer that is changed, and how.
LIES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "tmpfs": ("TmpfsMade", tmpfs_elsewhere),
    "layers": ("Examined", layers_by_path),
}


def send_zeros() -> None:
    """In the tool: the first batch has one extent more."""
    from migrate.memory.channels import PageChannels

    submit = PageChannels.submit

    def submit_more(channels: PageChannels, extents: Any, *others: Any, **more: Any) -> None:
        if channels.count == 0:
            first = extents[0]
            bomb = (first[0], 0, 1 << 30, PRESENT, True)
            extents = [bomb if isinstance(first, list) else type(first)(*bomb), *extents]
        submit(channels, extents, *others, **more)

    PageChannels.submit = submit_more  # type: ignore[method-assign,assignment]


def measure() -> None:
    """In the agent: bound its memory, and leave behind how much it had at most, in KiB (VmHWM, proc_pid_status(5))."""
    import atexit
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (BOUND_BYTES, BOUND_BYTES))
    atexit.register(
        lambda: LOOT.write_text(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    )


def install(lie: str) -> None:
    """In the agent: tell the lie."""
    if lie == "zeros":
        measure()
        return
    from migrate.agent.incoming import Incoming

    handle, (kind, lied) = Incoming.handle, LIES[lie]

    def told(incoming: Incoming, request: Any) -> Iterator[Any]:
        if type(request).__name__ == "TmpfsArchive":
            with LOOT.open("ab") as loot:
                loot.write(bytes(request.payload))
        for answer in handle(incoming, request):
            yield lied(answer) if type(answer).__name__ == kind else answer

    Incoming.handle = told  # type: ignore[method-assign,assignment]


def main() -> int:
    """On the source: the tool."""
    lie, *words = sys.argv[1:]
    if lie == "zeros":
        sys.path.insert(0, altered.CHECKOUT)
        send_zeros()
    return altered.migrate(f"from tests.tools import hostile; hostile.install({lie!r})", words)


if __name__ == "__main__":
    assert Path(altered.CHECKOUT).exists(), "this runs on a node of the rig"
    sys.exit(main())

"""Run `migrate WORDS...` on the source, with one of the hosts hostile.

    python3 -m tests.tools.hostile LIE WORDS...

The agent tells the LIE in one answer, and keeps what the source sends it because of that. With the
LIE `zeros` it is the source that is hostile: it sends a batch of which 4 TiB are zeros. The agent
is as it always is, but with a bound on its memory, and tells how much it took.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.tools import altered

#: A file of the target, with all that came of files in tmpfs mounts, or with how much memory the
#: agent took at most.
LOOT = Path("/root/loot")
#: A file of the source that no move has to do with.
SECRET = Path("/srv/secret/file")
#: A way to its directory from the root of any container, by a symlink that every container has,
#: /dev/fd -> /proc/self/fd, if the tool's own process follows it.
WAY = f"/dev/fd/../root{SECRET.parent}"


def tmpfs_elsewhere(answer: Any) -> Any:
    """Say that the container's first tmpfs is at WAY, which leads to a directory of the source."""
    return dataclasses.replace(answer, paths=type(answer.paths)([WAY, *answer.paths[1:]]))


def layers_by_path(answer: Any) -> Any:
    """Say that a layer is missing which is called like a file of the source.

    The source removes the archive of a layer once it was sent.
    """
    return dataclasses.replace(answer, layers=type(answer.objections)([f"sha256:{SECRET}"]))


#: PE_PRESENT of CRIU (criu/include/pagemap.h).
PRESENT = 4
BOUND_BYTES = 2 << 30
#: By name, the class of the answer that is changed, and how.
LIES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "tmpfs": ("TmpfsMade", tmpfs_elsewhere),
    "layers": ("Examined", layers_by_path),
}


def send_zeros() -> None:
    """Have the first batch claim an extent of zeros more; the source calls this."""
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
    """Bound the agent's memory, and leave behind in LOOT how much it had at most, in KiB.

    The agent calls this. The number is VmHWM of proc_pid_status(5).
    """
    import atexit
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (BOUND_BYTES, BOUND_BYTES))
    atexit.register(
        lambda: LOOT.write_text(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    )


def install(lie: str) -> None:
    """Arrange for the lie; the agent calls this."""
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
    """Run the tool, and return its exit code."""
    lie, *words = sys.argv[1:]
    if lie == "zeros":
        sys.path.insert(0, altered.CHECKOUT)
        send_zeros()
    return altered.migrate(f"from tests.tools import hostile; hostile.install({lie!r})", words)


if __name__ == "__main__":
    assert Path(altered.CHECKOUT).exists(), "this runs on a node of the rig"
    sys.exit(main())

"""holder.py KIND GATE SOCKET: an interposer that stays at a gate until it is killed."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from checkpoint.criu import page_server
from checkpoint.criu.edits import Edits
from checkpoint.criu.interposer import Interposer
from checkpoint.criu.roles import DumpRole, RestoreRole

EDITS = Edits(nftables=True, one_cgroup=True)
LIMIT_S = 60.0


class Nowhere:
    """A sink of a page server that keeps nothing."""

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None: ...


def role_of(kind: str, images: Path) -> DumpRole | RestoreRole:
    if kind == "restore":
        return RestoreRole(EDITS, images)
    role = DumpRole(EDITS)
    served = (role.pages, page_server.wire_struct(40201), Nowhere())
    threading.Thread(target=page_server.serve, args=served, daemon=True).start()
    return role


def main() -> None:
    kind, gate, path = sys.argv[1:]
    role = role_of(kind, Path(path).parents[1] / "images")
    with Interposer(Path(path), role):
        print("listening", flush=True)
        role.request_gate.wait_reached(LIMIT_S)
        if gate == "done":
            role.request_gate.open()
            role.done_gate.wait_reached(LIMIT_S)
        print("reached", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()

"""Measure how long CRIU itself takes for a container, on one host and with nothing to send.

    floor.py NAME, as root on that host

It prints two times in ms. The first is of a dump that leaves memory out, until everything else is
written. The second is of a restore from complete images in RAM with `criu lazy-pages`, until the
tasks run. Requests are edited as the tool edits them (no cgroup freezer, nft, cgroups left to the
runtime), and the runtime and the daemon are started before. The container goes on where it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from checkpoint.criu import rpc
from checkpoint.criu.edits import Edits
from checkpoint.criu.interposer import Conversation, Interposer, Stamp
from checkpoint.criu.roles import DumpRole, RestoreRole
from checkpoint.criu.shim_install import install_shim, rpc_socket
from checkpoint.engines.oci import stdio
from checkpoint.engines.oci.runc import Runc
from checkpoint.host.ram_directory import ram_directory
from checkpoint.host.wakeful import wakeful

EDITS = Edits(nftables=True, one_cgroup=True)
ROOM_BYTES = 12 << 30
TIMEOUT_S = 120.0


class LazyDump(DumpRole):
    """A dump that leaves memory to be served later, and is refused when it should be served.

    CRIU says `status-ready` then.
    """

    def last_edit(self, options: rpc.Message) -> None:
        options.lazy_pages = True

    def notify(self, script: str, pid: int) -> bool:
        return script != "status-ready" and super().notify(script, pid)


class WholeDump:
    """A dump as the runtime wants it, but for the edits.

    The images then say how what the dump has locked is unlocked.
    """

    def fds_for_criu(self, kind: str) -> dict[int, int]:
        return {}

    def begun(self, conversation: Conversation, kind: str) -> None: ...

    def request(self, kind: str, message: rpc.Message) -> bool:
        if kind == "DUMP":
            EDITS.apply(message.opts)
            message.opts.ClearField("freeze_cgroup")
        return True

    def notify(self, script: str, pid: int) -> bool:
        return True

    def went_on(self) -> None: ...

    def ended(self, conversation: Conversation, kind: str) -> None: ...


def between(stamps: list[Stamp], first: str, last: str) -> float:
    at = {stamp.name: stamp.at_ns for stamp in stamps}
    return (at[last] - at[first]) / 1e6


def dump_ms(name: str, directory: Path) -> float:
    """Dump the container but for its memory, thaw it, and return how long the dump took."""
    images = directory / "metadata"
    images.mkdir()
    role = LazyDump(EDITS)
    env = install_shim(directory)
    with Interposer(rpc_socket(directory), role), wakeful():
        checkpoint = Runc().checkpoint(Runc().inspect(name), images, env)
        role.request_gate.wait_reached(TIMEOUT_S)
        role.request_gate.open()
        role.done_gate.wait_reached(TIMEOUT_S)
        found = between(role.stamps, "request DUMP", "post-dump")
        role.refuse()
        checkpoint.communicate()
        role.close()
    shutil.rmtree(images)
    return found


def restore_ms(name: str, directory: Path) -> float:
    """Dump the container whole, which ends it, and return how long a restore of that takes."""
    images = directory / "whole"
    images.mkdir()
    runtime = Runc()
    container = runtime.inspect(name)
    env = install_shim(directory)
    with Interposer(rpc_socket(directory), WholeDump()):
        if runtime.checkpoint(container, images, env).wait(TIMEOUT_S) != 0:
            raise SystemExit("floor: the container could not be dumped")
    ready, status = os.pipe()
    argv = [
        "criu",
        "lazy-pages",
        "-D",
        str(images),
        "-W",
        str(images),
        "-v1",
        "--status-fd",
        str(status),
    ]
    with subprocess.Popen(argv, pass_fds=[status]) as daemon:
        os.close(status)
        os.read(ready, 1)
        role = RestoreRole(EDITS, images)
        role.lazy = True
        streams = stdio.rebuild(name, json.loads((images / "descriptors.json").read_text()))
        with Interposer(rpc_socket(directory), role), wakeful():
            restore = runtime.restore(name, container.bundle, images, env, streams)
            role.request_gate.wait_reached(TIMEOUT_S)
            role.request_gate.open()
            role.done_gate.wait_reached(TIMEOUT_S)
            role.done_gate.open()
            role.wait_resumed(TIMEOUT_S)
            if restore.wait(TIMEOUT_S) != 0:
                raise SystemExit("floor: the container could not be restored")
    if daemon.returncode != 0:
        raise SystemExit("floor: memory was not filled in")
    return between(role.stamps, "request RESTORE", "post-resume")


def main() -> None:
    name = sys.argv[1]
    with ram_directory(f"floor-{os.getpid()}", ROOM_BYTES, print) as directory:
        print(
            json.dumps(
                {"dump_ms": dump_ms(name, directory), "restore_ms": restore_ms(name, directory)}
            )
        )


if __name__ == "__main__":
    main()

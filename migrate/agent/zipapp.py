"""Pack the agent, and the command line that receives and starts it.

The target needs python3 and what CRIU brings; nothing of ours is installed or left there.
"""

from __future__ import annotations

import io
import shlex
import zipfile
from pathlib import Path

#: What the agent imports, relative to the directory that holds our packages.
CONTENTS = (
    "migrate/__init__.py",
    "migrate/causes.py",
    "migrate/errors.py",
    "migrate/facts.py",
    "migrate/leftovers.py",
    "migrate/limits.py",
    "migrate/logs.py",
    "migrate/message.py",
    "migrate/no_pauses.py",
    "migrate/plugs.py",
    "migrate/protocol.py",
    "migrate/state.py",
    "migrate/values.py",
    "migrate/agent/*.py",
    "checkpoint/*.py",
    "checkpoint/*/*.py",
    "transport/__init__.py",
    "transport/descriptors.py",
    "transport/errors.py",
    "transport/framing.py",
)
#: Some 30 times what the agent is now.
MOST_BYTES = 4 << 20
#: Reads {u32 size, zip} from stdin by bare read(2), so that not a byte of the protocol is swallowed,
#: into a memfd (which is a file to zipimport), and runs the server from it.
RECEIVER = f"""
import os, sys
def take(size):
    data = memoryview(bytearray(size))
    left = data
    while left:
        got = os.readv(0, [left])
        if not got:
            sys.exit("migrate agent: the connection ended while it was sent")
        left = left[got:]
    return data
size = int.from_bytes(take(4), "big")
if size > {MOST_BYTES}:
    sys.exit("migrate agent: what was sent begins with no size of it")
code = os.memfd_create("migrate-agent")
with open(code, "wb", closefd=False) as file:
    file.write(take(size))
sys.path.insert(0, "/proc/self/fd/%d" % code)
from migrate.agent.server import main
main()
"""
COMMAND = f"exec python3 -Ic {shlex.quote(RECEIVER)}"


def pack() -> bytes:
    """The zipapp, preceded by its size, as RECEIVER reads it."""
    root = Path(__file__).parent.parent.parent
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for pattern in CONTENTS:
            for path in sorted(root.glob(pattern)):
                archive.write(path, path.relative_to(root))
    packed = data.getvalue()
    return len(packed).to_bytes(4, "big") + packed

"""The program that the source starts on the target by SSH: it receives the agent, and becomes it.

It reads {size: u32, big-endian; zip archive} from standard input into a memfd, which is a file to
zipimport, and runs the agent's server from there. argv[1] is the most bytes that it takes. It reads
by bare read(2), because a buffer would swallow bytes of the protocol, which follow the archive.

A lone program: it imports the standard library only, until it has the agent. It is sent as text
(zipapp.py).
"""

import os
import sys


def take(size_bytes: int) -> memoryview:
    """Return exactly so many bytes of standard input, or exit."""
    data = memoryview(bytearray(size_bytes))
    left = data
    while left:
        got = os.readv(0, [left])  # short result: the loop goes on
        if not got:
            sys.exit("migrate agent: the connection ended while it was sent")
        left = left[got:]
    return data


size = int.from_bytes(take(4), "big")
if size > int(sys.argv[1]):
    sys.exit("migrate agent: what was sent begins with no size of it")
code = os.memfd_create("migrate-agent")
with open(code, "wb", closefd=False) as file:
    file.write(take(size))
sys.path.insert(0, f"/proc/self/fd/{code}")
from migrate.agent.server import main  # noqa: E402  (from the archive)

main()

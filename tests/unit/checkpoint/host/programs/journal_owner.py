"""Own the journal at a path, append an entry to it, print a line, and wait for the end of input."""

import sys
from pathlib import Path

from checkpoint.host.journal import Journal, Place

with Journal(Place(ram=Path(sys.argv[1]), disk=Path(sys.argv[2]))) as owned:
    owned.append({"state": "held"})
    print("owned", flush=True)
    sys.stdin.read()

"""A process that holds locks until its standard input ends: holder.py DIRECTORY KEY...

It prints "held" when it has them, and "released" when it has let go of them.
"""

import sys
from pathlib import Path

from checkpoint.host import lock

if __name__ == "__main__":
    lock.DIRECTORY = Path(sys.argv[1])
    with lock.locked(sys.argv[2:], lock.holder_text("migration 12ab", "alpha", "beta")):
        print("held", flush=True)
        sys.stdin.read()
    print("released", flush=True)

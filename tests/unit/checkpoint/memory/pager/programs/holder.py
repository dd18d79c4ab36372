"""Have a keeper that succeeds this process: holder.py DIRECTORY HELD.

With HELD "yes", this process hands over its standard output, to which the successor writes a line.
Then it prints the keeper's pid, and waits for the end of its standard input.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from checkpoint.memory.pager.keeper import Keeper


def succeed(needed: tuple[str, int], fds: list[int]) -> None:
    os.write(fds[0], f"{needed} {len(fds)}\n".encode())


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir()
    keeper = Keeper(directory, succeed)
    if sys.argv[2] == "yes":
        keeper.hold(("what is needed", 7), [1, 0])
    print(keeper.pid, flush=True)
    sys.stdin.read()
    keeper.release()

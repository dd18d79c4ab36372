"""A process of 32 MiB that it shares with a child since the fork; it prints the child's pid."""

import os

if __name__ == "__main__":
    data = bytearray(b"x" * (32 << 20))
    if pid := os.fork():
        print(pid, flush=True)
    os.read(0, 1)

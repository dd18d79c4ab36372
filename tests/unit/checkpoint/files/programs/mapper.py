"""A process that has three files of a directory mapped: mapper.py DIRECTORY.

"shared one" is mapped shared and writable, "private" is mapped private, "read" is mapped shared and
read-only. The process prints an empty line when all are, and goes on until its input ends.
"""

import mmap
import os
import sys

if __name__ == "__main__":
    names = ("shared one", "private", "read")
    fds = [os.open(os.path.join(sys.argv[1], name), os.O_RDWR) for name in names]
    held = [
        mmap.mmap(fds[0], 4096),
        mmap.mmap(fds[1], 4096, mmap.MAP_PRIVATE),
        mmap.mmap(fds[2], 4096, prot=mmap.PROT_READ),
    ]
    print(flush=True)
    sys.stdin.read()

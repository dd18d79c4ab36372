"""A process that runs the code that a test sends: obedient.py PAGES PAGE_BYTES.

It has a buffer of PAGES pages, of which page number n is full of the byte n % 250 + 1. It prints
the buffer's address, and then takes lines of JSON: each is a text of code, which it runs. It
answers each with a line of JSON, the value that the code has given to `answer`.
"""

import ctypes
import json
import mmap
import os  # noqa: F401  (for code that the test sends)
import select  # noqa: F401
import struct  # noqa: F401
import sys
import threading  # noqa: F401
import time  # noqa: F401

PAGES, PAGE_BYTES = map(int, sys.argv[1:])
libc = ctypes.CDLL(None, use_errno=True)
buffer = mmap.mmap(-1, PAGES * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def fill(page: int, value: int) -> None:
    """Fill a page of the buffer with a byte."""
    buffer[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes([value]) * PAGE_BYTES


if __name__ == "__main__":
    for number in range(PAGES):
        fill(number, number % 250 + 1)
    print(json.dumps(address), flush=True)
    for line in sys.stdin:
        answer = None
        exec(json.loads(line))  # noqa: S102
        print(json.dumps(answer), flush=True)

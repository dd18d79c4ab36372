"""A process that locks its pages, and prints how many KiB are locked.

It then prints the number of page faults that bringing 64 MiB to hand takes.
"""

import resource
from pathlib import Path

from checkpoint.host import memory, own_process


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    own_process.keep_to_itself()
    held = bytearray(1 << 20)
    print(Path("/proc/self/status").read_text().split("VmLck:")[1].split()[0])
    before = faults()
    memory.bring_to_hand(64 << 20)
    print(faults() - before)

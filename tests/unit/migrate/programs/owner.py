"""The owner of a directory in RAM: owner.py RUN NAME.

It prints "ready" when the directory is there with a file in it, and waits to be killed.
"""

import sys
import time
from pathlib import Path

from checkpoint.host import ram_directory

if __name__ == "__main__":
    ram_directory.RUN = Path(sys.argv[1])
    with ram_directory.ram_directory(sys.argv[2], 1 << 20, print) as path:
        (path / "pages").write_bytes(bytes(300_000))
        print("ready", flush=True)
        time.sleep(60)

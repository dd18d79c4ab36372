"""A process with a tmpfs at a place in its own mount namespace: mounter.py PLACE.

The tmpfs has the file "inside". The process prints "made", and goes on until its input ends.
unshare(1) starts it in the namespace.
"""

import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    place = sys.argv[1]
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "test", place], check=True)
    Path(place, "inside").touch()
    print("made", flush=True)
    sys.stdin.read()

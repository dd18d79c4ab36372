"""Hold a tracker on a process, as another migration of its container would.

python3 -m tests.tools.watch PID
"""

from __future__ import annotations

import sys
import time

from checkpoint.memory.tracking.tracker import Tracker

if __name__ == "__main__":
    watching = Tracker(int(sys.argv[1]))
    print("watching", flush=True)
    time.sleep(600)

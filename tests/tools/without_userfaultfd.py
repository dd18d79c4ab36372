"""Run the tool as it is on a kernel without userfaultfd's asynchronous write protection.

Run on the source as `python3 -m tests.tools.without_userfaultfd FAULT NUMBER WORD ...`, which are as those of
faulty_pages.
"""

from __future__ import annotations

import sys

from checkpoint.memory.tracking import write_protection
from tests.tools import faulty_pages

if __name__ == "__main__":
    write_protection.available = lambda: False
    sys.exit(faulty_pages.main())

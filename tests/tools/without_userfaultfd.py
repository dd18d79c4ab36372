"""Run the tool as on a kernel without userfaultfd's asynchronous write protection.

    python3 -m tests.tools.without_userfaultfd FAULT NUMBER WORDS...

The arguments are those of faulty_pages.
"""

from __future__ import annotations

import sys

from checkpoint.memory.tracking import write_protection
from tests.tools import faulty_pages

if __name__ == "__main__":
    write_protection.available = lambda: False
    sys.exit(faulty_pages.main())

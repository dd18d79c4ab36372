"""The coverage-guided fuzzer of one parser: atheris, which is libFuzzer.

    python -m tests.fuzz.guided PARSER [libFuzzer's options and directories]

__main__.py runs it as a program of its own.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["checkpoint", "migrate", "transport", "tests.fuzz", "tarfile"]
):
    from tests.fuzz.parser import MOST_BYTES, PAGE_BYTES
    from tests.fuzz.parsers import PARSERS

#: The fuzzer itself takes more and more memory, so what an input may take is counted anew after so
#: many runs.
RUNS_OF_A_BOUND = 256


def main() -> None:
    """Fuzz the parser until libFuzzer ends."""
    parser = PARSERS[sys.argv.pop(1)]
    runs = 0

    def one(data: bytes) -> None:
        nonlocal runs
        if runs % RUNS_OF_A_BOUND == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (pages * PAGE_BYTES + MOST_BYTES, hard))
        runs += 1
        parser.takes(data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Tests of tests/workloads/dirtier.py: it notices pages that a migration could damage."""

import pytest

from tests.unit.tests.workloads.running import serving
from tests.workloads import dirtier


@pytest.mark.parametrize("kind", [[], ["--kind", "shared"], ["--kind", "memfd"]])
def test_dirtier_goes_on_writing_and_is_sound(kind: list[str]) -> None:
    with serving("dirtier.py", "--mib", "4", "--mb-per-second", "40", *kind) as asker:
        first = asker.status()
        assert first["pages"] == 1024
        assert asker.until(lambda status: status["writes"] > first["writes"] + 3000)["ok"]


def test_dirtier_finds_stale_swapped_and_changed_pages() -> None:
    pages = dirtier.Pages(16 * dirtier.PAGE_BYTES, shared=False)
    stale = pages.memory[: dirtier.PAGE_BYTES]
    pages.write(0)
    assert pages.check() == []
    pages.memory[: dirtier.PAGE_BYTES] = stale
    pages.memory[5 * dirtier.PAGE_BYTES : 6 * dirtier.PAGE_BYTES] = bytes(dirtier.PAGE_BYTES)
    pages.memory[7 * dirtier.PAGE_BYTES : 8 * dirtier.PAGE_BYTES] = stale
    pages.memory[10 * dirtier.PAGE_BYTES - 1] ^= 1
    assert pages.check() == [
        "page 0: expected version 2, found page 0 version 1",
        "page 5: expected version 1, found page 0 version 0, body not as its checksum",
        "page 7: expected version 1, found page 0 version 1",
        "page 9: expected version 1, found page 9 version 1, body not as its checksum",
    ]
    # A log as stale as its page would pass, but for the count of writes.
    pages.versions[0] = 1
    assert pages.check()[0] == "log holds 16 writes, 17 were made"

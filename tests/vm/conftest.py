"""Fixtures of tests that need virtual machines, whose kernel tracks soft-dirty pages.

A plain `scripts/test` leaves these tests out, because they are slow.
"""

from collections.abc import Iterator

import pytest

from tests.rig import Rig


@pytest.fixture(scope="session")
def rig(rig_name: str) -> Iterator[Rig]:
    """Two virtual machines, alpha and beta, for the whole run."""
    rig = Rig(f"{rig_name}-vm")
    rig.up(nodes=2, vm=True)
    yield rig
    rig.down()

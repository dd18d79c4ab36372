"""Two virtual machines, whose kernel tracks soft-dirty pages. Not part of a plain `scripts/test`: they are slow."""

from collections.abc import Iterator

import pytest

from tests.integration.conftest import archive, engine, hosts
from tests.rig import Rig

__all__ = ["archive", "engine", "hosts"]


@pytest.fixture(scope="session")
def rig(rig_name: str) -> Iterator[Rig]:
    rig = Rig(f"{rig_name}-vm")
    rig.up(nodes=2, vm=True)
    yield rig
    rig.down()

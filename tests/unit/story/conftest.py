"""One stage for all moves of a test run: setting it takes longer than a move."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.story.stage import Stage, stage


@pytest.fixture(scope="package")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("story")) as found:
        yield found

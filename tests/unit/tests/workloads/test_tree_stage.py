"""Tests of tests/workloads/tree_stage.py: a stage checks its tokens and its memory."""

import pytest

from tests.workloads import tree_stage


def _stage() -> tuple[tree_stage.Shared, tree_stage.Stage]:
    shared = tree_stage.Shared()
    stage = tree_stage.Stage(shared, tree_stage.SIGNALS, 4 * tree_stage.PAGE_BYTES)
    stage.forward(tree_stage.pack_token(1, 0, 0, 0))
    assert shared.errors() == []
    return shared, stage


def _flipped(token: bytes, at: int) -> bytes:
    return token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]


@pytest.mark.parametrize(
    ("token", "error"),
    [
        (tree_stage.pack_token(2, 0, 0, 0), None),
        (tree_stage.pack_token(2, 0, 1, 0), None),
        (tree_stage.pack_token(1, 0, 0, 0), "token 1 came, 2 was due"),
        (tree_stage.pack_token(3, 0, 0, 0), "token 3 came, 2 was due"),
        (tree_stage.pack_token(2, 1, 0, 0), "passed 1 stages instead of 0"),
        (tree_stage.pack_token(2, 0, 1, 5), "baton 2 says 5, the shared counter is 0"),
        (_flipped(tree_stage.pack_token(2, 0, 0, 0), 30), "checksum"),
        (_flipped(tree_stage.pack_token(2, 0, 0, 0), tree_stage.TOKEN_BYTES - 1), "checksum"),
    ],
)
def test_a_stage_checks_tokens(token: bytes, error: str | None) -> None:
    shared, stage = _stage()
    stage.forward(token)
    assert (
        [error in found for found in shared.errors()] == [True] if error else shared.errors() == []
    )


def test_a_stage_checks_its_memory() -> None:
    shared, stage = _stage()
    memory = stage._pattern._memory
    memory[3 * tree_stage.PAGE_BYTES + 17] ^= 1
    for number in range(2, 6):
        stage.forward(tree_stage.pack_token(number, 0, 0, 0))
    assert shared.errors() == ["signals: private memory changed"]

"""Tests of migrate/wire/values.py: long lists are cut into pieces that fit a frame."""

from __future__ import annotations

import pytest

from migrate.wire import protocol
from migrate.wire.protocol import (
    Command,
    decode,
    encode,
)
from migrate.wire.values import in_pieces
from transport.framing import MAX_HEADER

PATHS = [
    ("x",) * 200_000,
    ("\U0001f600" * 2000,) * 100,
    ("\1" * 4000,) * 100,
    (),
    ("a/" * 2000 + "a",) * 500,
]


@pytest.mark.parametrize("paths", PATHS)
def test_long_lists_go_in_pieces_that_fit_a_frame(paths: tuple[str, ...]) -> None:
    pieces = list(in_pieces(paths))
    assert tuple(path for piece in pieces for path in piece) == paths
    for piece in pieces:
        message = protocol.Remove(tree="/", paths=piece)
        assert len(encode(message)) < MAX_HEADER
        assert decode(encode(message), b"", Command) == message

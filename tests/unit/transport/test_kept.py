"""Tests of transport/kept.py: the peer gets what it lacks, wherever the connection was lost."""

from __future__ import annotations

import random

import pytest

from transport.errors import IncompleteFrame
from transport.kept import COUNT, Kept

PIECES = (b"ab", b"c", b"", b"defg")
ALL = b"".join(PIECES)


def keeping(before: bytes = b"") -> Kept:
    """Return the pieces, kept; the bytes `before` were sent when nothing was kept."""
    kept = Kept()
    kept.add(before)
    kept.keeping = True
    for piece in PIECES:
        kept.add(piece)
    return kept


def lacking(kept: Kept, position: int) -> bytes:
    return b"".join(kept.since(position))


def test_bytes_are_counted_although_they_are_not_kept() -> None:
    kept = Kept()
    kept.add(b"abc")
    kept.add(memoryview(b"defgh")[1:])
    assert kept.sent == 7
    assert kept.since(7) == []
    with pytest.raises(IncompleteFrame):
        kept.since(6)


@pytest.mark.parametrize("before", [b"", b"gone"])
def test_the_peer_lacks_what_is_behind_any_position(before: bytes) -> None:
    kept = keeping(before)
    assert kept.sent == len(before) + len(ALL)
    for position in range(len(ALL) + 1):
        assert lacking(kept, len(before) + position) == ALL[position:]


def test_what_the_peer_lacks_can_be_asked_for_again() -> None:
    kept = keeping()
    assert [lacking(kept, 1) for _ in range(2)] == [ALL[1:]] * 2


def test_what_is_kept_is_what_was_sent_and_not_what_its_buffer_holds_later() -> None:
    kept, buffer = keeping(), bytearray(b"12")
    kept.add(memoryview(buffer))
    buffer[:] = b"34"
    assert lacking(kept, len(ALL)) == b"12"


@pytest.mark.parametrize(
    ("confirmed", "start"), [(0, 0), (1, 0), (2, 2), (3, 3), (4, 3), (6, 3), (7, 7)]
)
@pytest.mark.parametrize("before", [b"", b"gone"])
def test_only_a_piece_that_is_confirmed_whole_is_dropped(
    before: bytes, confirmed: int, start: int
) -> None:
    kept = keeping(before)
    kept.confirm(len(before) + confirmed)
    for position in range(start, len(ALL) + 1):
        assert lacking(kept, len(before) + position) == ALL[position:]
    with pytest.raises(IncompleteFrame, match=rf"of {kept.sent}, of which {len(before) + start} "):
        kept.since(len(before) + start - 1)
    assert kept.sent == len(before) + len(ALL)


def test_an_older_confirmation_changes_nothing() -> None:
    kept = keeping()
    kept.confirm(3)
    kept.confirm(1)
    assert lacking(kept, 3) == ALL[3:]
    kept.add(b"h")
    assert lacking(kept, 3) == ALL[3:] + b"h"


@pytest.mark.parametrize("position", [-1, len(ALL) + 1, 1 << 63])
def test_a_position_that_no_peer_can_have_is_refused(position: int) -> None:
    with pytest.raises(IncompleteFrame, match=f"the peer has {position} bytes of {len(ALL)}"):
        keeping().since(position)


def test_what_was_dropped_is_gone_and_what_comes_is_only_counted() -> None:
    kept = keeping()
    kept.drop()
    assert kept.since(len(ALL)) == []
    for added in range(2):
        with pytest.raises(IncompleteFrame):
            kept.since(len(ALL) - 1 + added)
        kept.add(b"x")
    assert (kept.sent, kept.keeping) == (len(ALL) + 2, False)


def test_a_count_is_eight_bytes_in_network_order() -> None:
    assert COUNT.pack(0x0102) == bytes(6) + b"\1\2"


class Side:
    """One side, with what it wrote in all, what is on its way, and what has come from the peer."""

    def __init__(self, chance: random.Random) -> None:
        self._chance, self._kept = chance, Kept()
        self.wrote, self.came, self._on_its_way = bytearray(), bytearray(), bytearray()
        self._confirmed = 0
        self.sent_again = 0

    def outlast(self) -> None:
        self._kept.keeping = True

    def write(self) -> None:
        data = self._chance.randbytes(self._chance.randrange(12))
        self._kept.add(data)
        self.wrote += data
        self._on_its_way += data

    def deliver(self, peer: Side, size: int) -> None:
        peer.came += self._on_its_way[:size]
        del self._on_its_way[:size]

    def confirm(self, peer: Side) -> None:
        """Hear of some position at which the peer was once."""
        self._confirmed = self._chance.randint(self._confirmed, len(peer.came))
        self._kept.confirm(self._confirmed)

    def lose(self, peer: Side) -> None:
        """Lose what is on its way but for its beginning, and send what the peer lacks."""
        self.deliver(peer, self._chance.randrange(len(self._on_its_way) + 1))
        self._on_its_way[:] = lacking(self._kept, len(peer.came))
        self.sent_again += len(self._on_its_way)


@pytest.mark.parametrize("seed", range(40))
def test_both_sides_have_all_bytes_once_and_in_order_wherever_the_connection_is_lost(
    seed: int,
) -> None:
    chance = random.Random(seed)  # noqa: S311
    sides = Side(chance), Side(chance)
    for side, peer in (sides, sides[::-1]):
        for _ in range(chance.randrange(5)):
            side.write()
        side.deliver(peer, len(side.wrote))
        side.outlast()
    for _ in range(300):
        side, peer = chance.choice((sides, sides[::-1]))
        event = chance.random()
        if event < 0.5:
            side.write()
        elif event < 0.8:
            side.deliver(peer, chance.randrange(30))
        elif event < 0.9:
            side.confirm(peer)
        else:
            for one, other in (sides, sides[::-1]):
                one.lose(other)
    for side, peer in (sides, sides[::-1]):
        side.lose(peer)
        side.deliver(peer, len(side.wrote))
        assert peer.came == side.wrote
        assert len(side.wrote) > 300
        assert side.sent_again > 0

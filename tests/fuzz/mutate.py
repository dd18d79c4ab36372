"""Random damage to an input, the same for the same random numbers."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence

#: Numbers at which parsers go wrong.
NUMBERS = (
    0,
    1,
    3,
    4,
    255,
    256,
    4095,
    4096,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
WORDS = (
    *(
        b"\n",
        b"\r",
        b"\x0c",
        b"\0",
        b"\xff",
        b" ",
        b"\\012",
        b"\\134",
        b"../",
        b"/",
        b" - ",
        b")",
        b"\xe2\x80\xa8",
    ),
    *(
        b"-1",
        b"99999999999999999999",
        b"1e999",
        b"null",
        b"true",
        b"{}",
        b"[]",
        b'""',
        b"\\ud800",
        b"[" * 3000,
    ),
)
MOST_BYTES = 1 << 14

Damage = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def _flip(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _number(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    form, bits = chance.choice(
        (("B", 8), ("<H", 16), ("<I", 32), (">I", 32), ("<Q", 64), (">Q", 64))
    )
    packed = struct.pack(form, chance.choice(NUMBERS) % (1 << bits))
    at = chance.randrange(len(data) + 1)
    data[at : at + len(packed)] = packed


def _word(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    data[at : at + chance.choice((0, 0, 1, 4))] = chance.choice(WORDS)


def _cut(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    start = chance.randrange(len(data) + 1)
    del data[start : start + chance.choice((1, 2, 4, 16, len(data)))]


def _repeat(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    start = chance.randrange(len(data) + 1)
    piece = data[start : start + chance.randrange(1, 64)]
    data[start:start] = piece * chance.choice((1, 2, 50))


def _splice(chance: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    other = chance.choice(others)
    start = chance.randrange(len(other) + 1)
    at = chance.randrange(len(data) + 1)
    data[at : at + chance.choice((0, len(data)))] = other[start : start + chance.randrange(1, 256)]


DAMAGES: tuple[Damage, ...] = (_flip, _number, _word, _cut, _repeat, _splice)


def damaged(seeds: Sequence[bytes], seed: int, count: int) -> Iterator[bytes]:
    """Yield so many inputs, each of which is a damaged seed."""
    chance = random.Random(seed)  # noqa: S311
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 2, 4, 8))):
            chance.choice(DAMAGES)(chance, data, seeds)
        yield bytes(data[:MOST_BYTES])

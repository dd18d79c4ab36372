"""Arithmetic on address ranges: sorted lists of disjoint half-open (start, end).

Pure. Time is linear; `union` also takes unsorted and overlapping ranges, and sorts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Range = tuple[int, int]


def union(first: Iterable[Range], second: Iterable[Range]) -> list[Range]:
    """Return the addresses that are in either argument. Adjacent ranges are joined."""
    merged: list[Range] = []
    for start, end in sorted([*first, *second]):
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def intersection(first: Sequence[Range], second: Sequence[Range]) -> list[Range]:
    """Return the addresses that are in both lists."""
    common: list[Range] = []
    i = j = 0
    while i < len(first) and j < len(second):
        start, end = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if start < end:
            common.append((start, end))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return common


def difference(first: Sequence[Range], second: Sequence[Range]) -> list[Range]:
    """Return the addresses that are in the first list and not in the second."""
    left: list[Range] = []
    j = 0
    for start, end in first:
        while j < len(second) and second[j][1] <= start:
            j += 1
        k, at = j, start
        while k < len(second) and second[k][0] < end:
            if at < second[k][0]:
                left.append((at, second[k][0]))
            at = second[k][1]
            k += 1
        if at < end:
            left.append((at, end))
    return left


def size(ranges: Iterable[Range]) -> int:
    """Return how many bytes the ranges cover."""
    return sum(end - start for start, end in ranges)

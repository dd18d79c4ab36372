"""The matrix as a table: what came of each fault at each point of a move, with each engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.faults.cases import ENGINES, POINTS, matrix
from tests.faults.injection import NOTHING

#: What became of the container: where it ran at the end.
ON = {"alpha": "S", "beta": "T"}
ENDED, NOT_HIT, NOT_TRIED, WRONG = "-", ".", "", "!"


def table(results: Path) -> Iterator[str]:
    """Yield the lines of one table in Markdown for each engine. The last verdict of a case counts.

    S and T: the container ran on the source, or on the target. A star: after `migratectl recover`.
    ENDED: the fault ends the container. NOT_HIT: nothing was there to be hit. WRONG: a fault.
    """
    verdicts = {}
    for line in results.read_text().splitlines():
        verdict = json.loads(line)
        verdicts[verdict["case"]] = verdict
    for engine in ENGINES:
        cases = [case for case in matrix() if case.engine == engine and is_for(engine, case.fault)]
        yield from ("", f"## {engine}", "", row("fault", POINTS), row("---", ["---"] * len(POINTS)))
        for fault in dict.fromkeys(case.fault for case in cases):
            numbers = {case.point: case.number for case in cases if case.fault == fault}
            yield row(fault, [letter(verdicts.get(numbers[point])) for point in POINTS])


def is_for(engine: str, fault: str) -> bool:
    """Return whether an engine has what a fault hits."""
    return "storage is locked" not in fault or engine == "podman"


def row(first: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def letter(verdict: Mapping[str, Any] | None) -> str:
    """Return what came of a case, in one or two characters."""
    if verdict is None:
        return NOT_TRIED
    if verdict["faults"]:
        return WRONG
    where = "".join(ON[host] for host in verdict["running"]) or ENDED
    if verdict["hit"] == NOTHING:
        return NOT_HIT
    return f"{where}*" if verdict["by_hand"] else where

"""What earlier moves have taught about the costs of a freeze, by target, in a file of this host's.

The file only makes predictions better. A file that is damaged or cannot be written is no error.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Annotated

from checkpoint import schema
from checkpoint.errors import DataInvalid
from checkpoint.host import paths, whole
from checkpoint.host.ownership import PRIVATE_DIRECTORY, PRIVATE_FILE
from checkpoint.schema import Range
from migrate.decisions.prediction import FURTHEST, Factors, Item

FILE = paths.STATE / "costs.json"
#: The most hosts of which something is kept; the host that was moved to least lately goes first.
MOST_HOSTS = 1000
#: Factors are kept in thousandths.
UNIT = 1000
#: {host: {key of an Item: factor}}, the host that was moved to last at the end.
Kept = Mapping[str, Mapping[str, Annotated[int, Range(int(UNIT / FURTHEST), int(UNIT * FURTHEST))]]]


def learned(host: str) -> Factors:
    """Return what earlier moves to a host have taught; {} if there were none."""
    found = _read().get(host, {})
    names = {item.key: item for item in Item}
    return {names[name]: factor / UNIT for name, factor in found.items() if name in names}


def keep(host: str, factors: Factors) -> None:
    """Keep the factors for the next move to a host.

    Of two moves that end at once, one may be forgotten.
    """
    kept = {name: factors for name, factors in _read().items() if name != host}
    kept[host] = {item.key: round(factor * UNIT) for item, factor in factors.items()}
    latest = dict(list(kept.items())[-MOST_HOSTS:])
    with contextlib.suppress(OSError):
        FILE.parent.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        whole.replace(FILE, (json.dumps(latest, indent=1) + "\n").encode(), PRIVATE_FILE)


def _read() -> Kept:
    with contextlib.suppress(OSError, ValueError, DataInvalid):
        found: Kept = schema.read(Kept, json.loads(FILE.read_text()))
        return found
    return {}

"""Changes to an engine's description of a container."""

from __future__ import annotations

from copy import deepcopy
from typing import Any


def changed(found: dict[str, Any], at: str, value: object) -> dict[str, Any]:
    """Return a copy of a description with another value at `at`, like "Section.Name"."""
    copy = deepcopy(found)
    *sections, name = at.split(".")
    section = copy
    for each in sections:
        section = section[each]
    section[name] = value
    return copy

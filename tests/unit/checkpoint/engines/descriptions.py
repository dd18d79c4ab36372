"""Changes of what engines tell of a container."""

from __future__ import annotations

from copy import deepcopy
from typing import Any


def changed(found: dict[str, Any], at: str, value: object) -> dict[str, Any]:
    """A copy with another value "Section.Name"."""
    copy = deepcopy(found)
    *sections, name = at.split(".")
    section = copy
    for each in sections:
        section = section[each]
    section[name] = value
    return copy

"""The layers of a container image that a host has already.

A layer is named by its DiffID (OCI image spec, config.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def common(wanted: Sequence[str], images: Iterable[Sequence[str]]) -> list[str]:
    """Return the longest common prefix of `wanted` with any of `images`, each lowest layer first.

    Layers above the first difference cannot be reused, even if their content is equal: an engine
    identifies a layer by the layers beneath it as well (ChainID of the OCI image spec, config.md).
    """
    longest = 0
    for layers in images:
        same = 0
        while same < min(len(wanted), len(layers)) and wanted[same] == layers[same]:
            same += 1
        longest = max(longest, same)
    return list(wanted[:longest])

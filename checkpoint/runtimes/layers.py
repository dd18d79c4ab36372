"""Which of an image's layers are on a host already. A layer is named by its DiffID (OCI image spec, config.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def common(wanted: Sequence[str], images: Iterable[Sequence[str]]) -> list[str]:
    """The longest beginning of an image's layers that another image has, too: what is above it is another layer there,
    even if its content were the same."""
    longest = 0
    for layers in images:
        same = 0
        while same < min(len(wanted), len(layers)) and wanted[same] == layers[same]:
            same += 1
        longest = max(longest, same)
    return list(wanted[:longest])

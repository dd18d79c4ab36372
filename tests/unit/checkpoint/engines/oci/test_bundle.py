"""Tests of checkpoint/engines/oci/bundle.py: what a bundle's arrival makes, and undoes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from checkpoint.engines.base import MARKER
from checkpoint.engines.oci.bundle import IncomingBundle
from checkpoint.engines.oci.runc import Runc


def arrive(bundle: Path) -> None:
    """Have a container arrive, and roll back when some of its files are there."""
    fields = {
        "bundle": str(bundle),
        "rootfs": str(bundle / "rootfs"),
        "config": {"root": {"path": "rootfs"}, "linux": {"cgroupsPath": "/x"}},
        "descriptors": [],
        "owned": {},
    }
    with contextlib.ExitStack() as undo:
        IncomingBundle(Runc(), "x", fields, undo).prepare(b"", shared=False)
        assert (bundle / MARKER).exists()
        assert "cgroupsPath" in (bundle / "config.json").read_text()
        (bundle / "rootfs/data").mkdir(exist_ok=True)
        (bundle / "rootfs/data/file").touch()


@pytest.mark.parametrize(
    "there", [[], ["bundle"], ["bundle", "bundle/rootfs"]], ids=["none", "bundle", "rootfs"]
)
def test_a_place_that_was_empty_is_empty_again_after_a_roll_back(
    tmp_path: Path, there: list[str]
) -> None:
    if there[1:]:  # a bundle with an empty rootfs must be an earlier migration's
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / MARKER).touch()
    for name in there:
        (tmp_path / name).mkdir(exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    arrive(tmp_path / "bundle")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_configuration_that_was_there_is_there_again_after_a_roll_back(bundle: Path) -> None:
    (bundle / "config.json").write_text("as it was")
    arrive(bundle)
    assert (bundle / "config.json").read_text() == "as it was"

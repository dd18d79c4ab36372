"""Tests of checkpoint/engines/base.py: the config.json of a bundle, whole and damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.base import read_config
from checkpoint.errors import DataInvalid


def config(directory: Path, **members: Any) -> dict[str, Any]:
    (directory / "config.json").write_text(json.dumps({"root": {"path": "rootfs"}, **members}))
    return read_config(directory)


def test_null_members_of_a_config_are_left_out(tmp_path: Path) -> None:
    mounts = [
        {"destination": "/proc", "type": "proc"},
        {"destination": "/x", "source": "/y", "options": ["bind"]},
    ]
    assert config(tmp_path, mounts=mounts)["mounts"] == mounts
    assert config(tmp_path, mounts=None, linux=None) == {"root": {"path": "rootfs"}, "linux": {}}
    assert config(tmp_path, linux={"resources": {"cpu": None}, "namespaces": None})["linux"] == {
        "resources": {}
    }


@pytest.mark.parametrize(
    "members",
    [
        {"root": None},
        {"root": {"path": None}},
        {"mounts": [{"type": "proc"}]},
        {"mounts": [{"destination": "/x", "type": "bind"}]},
        {"mounts": [{"destination": "/x", "options": ["rbind"], "source": None}]},
        {"mounts": [{"destination": "/x", "options": "bind", "source": "/y"}]},
        {"linux": []},
        {"linux": {"namespaces": [{"path": "/x"}]}},
        {"linux": {"resources": []}},
        {"linux": {"resources": {"cpu": [1]}}},
        {"linux": {"cgroupsPath": 1}},
    ],
)
def test_a_damaged_config_is_refused(tmp_path: Path, members: dict[str, Any]) -> None:
    with pytest.raises(DataInvalid, match=r"config.json"):
        config(tmp_path, **members)

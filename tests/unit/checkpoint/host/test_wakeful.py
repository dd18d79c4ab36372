"""Tests of checkpoint/host/wakeful.py, with files that stand for the kernel's device."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from checkpoint.host import wakeful as module
from checkpoint.host.wakeful import wakeful


def test_a_latency_of_nothing_is_asked_for_while_the_device_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "cpu_dma_latency"
    device.touch()
    monkeypatch.setattr(module, "DEVICE", str(device))
    before = os.listdir("/proc/self/fd")
    with wakeful():
        assert device.read_bytes() == struct.pack("=i", 0)
        assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("device", ["/nowhere/cpu_dma_latency", "/dev/full"])
def test_a_kernel_without_the_device_is_no_error(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(module, "DEVICE", device)
    before = os.listdir("/proc/self/fd")
    with wakeful():
        pass
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(KeyError), wakeful():
        raise KeyError
    assert os.listdir("/proc/self/fd") == before

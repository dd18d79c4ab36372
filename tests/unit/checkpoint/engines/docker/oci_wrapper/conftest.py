"""Fixtures of the tests of the wrapper: the program, an agent, and a bundle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.engines.docker import oci_wrapper
from tests.unit.checkpoint.engines.docker.oci_wrapper.agents import (
    PROGRAMS,
    Agent,
    Program,
    write_config,
)


@pytest.fixture(autouse=True)
def taken_signals() -> Iterator[None]:
    """Take the signals again that the wrapper does not take, where it runs in this process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Return the function that runs the wrapper, with programs/runc and other sockets."""
    runc = tmp_path / "bin/runc"
    runc.parent.mkdir()
    shutil.copy(PROGRAMS / "runc", runc)
    (tmp_path / "sockets").mkdir()
    source = Path(oci_wrapper.__file__).read_text()
    for constant, name in ((oci_wrapper.DIRECTORY, "sockets"), (oci_wrapper.CGROUPS, "cgroups")):
        assert source.count(f'"{constant}"') == 1
        source = source.replace(f'"{constant}"', repr(str(tmp_path / name)))
    file = tmp_path / "wrapper"
    file.write_text(source)
    env = {**os.environ, "PATH": f"{runc.parent}:{os.environ['PATH']}"}

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        argv = [sys.executable, "-IS", str(file), *words]
        return subprocess.run(argv, env=env, capture_output=True, timeout=30, check=False)

    return run


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[[object], Agent]]:
    """Yield a function that makes an agent with an order; an agent without an order hangs up."""
    made: list[Agent] = []

    def make(order: object) -> Agent:
        made.append(Agent(tmp_path / "box", json.dumps(order).encode() if order else b""))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a bundle, which is the working directory. Cgroups are plain files of the test."""
    monkeypatch.setattr(oci_wrapper, "CGROUPS", str(tmp_path / "cgroups"))
    path = tmp_path / "bundle"
    path.mkdir()
    monkeypatch.chdir(path)
    write_config(path, [{"type": "network"}])
    return path

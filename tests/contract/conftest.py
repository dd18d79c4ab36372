"""The contract between a runtime, the interposer and CRIU, on a fake CRIU and on the real one.

With --real-criu the tests run on the real one, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # The protobuf of Debian calls what Python 3.12 deprecated. Warnings are errors here.
    warnings.simplefilter("ignore", DeprecationWarning)
    from tests.contract.harness import FAKES, LIMIT_S, Peer, Scene, open_descriptors


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-criu", action="store_true", help="also run the contract on the criu on PATH (root)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "peer" in metafunc.fixturenames:
        real = metafunc.config.getoption("--real-criu", default=False)
        metafunc.parametrize("peer", ["fake", "real"] if real else ["fake"], indirect=True)


@pytest.fixture
def peer(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Peer:
    """Return the CRIU beneath the interposer.

    The real one was asked for, so a real CRIU that cannot run fails the test.
    """
    if request.param == "real":
        found = shutil.which("criu")
        assert found is not None, "--real-criu was given, but there is no criu on PATH"
        assert os.geteuid() == 0, "--real-criu was given, but CRIU needs root"
        check = subprocess.run([found, "check"], capture_output=True, text=True, check=False)
        assert check.returncode == 0, (
            f"--real-criu was given, but it does not work here: {check.stderr}"
        )
        return Peer(real=True, directory=Path(found).parent, record=None)
    return fake_peer(tmp_path, monkeypatch)


def fake_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Peer:
    """Install tests/fakes/criu.py as the `criu` on PATH, and return it."""
    directory, record = tmp_path / "criu", tmp_path / "record"
    directory.mkdir()
    program = directory / "criu"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -B {FAKES / "criu.py"} "$@"\n')
    program.chmod(0o700)
    monkeypatch.setenv("FAKE_CRIU_RECORD", str(record))
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return Peer(real=False, directory=directory, record=record)


@pytest.fixture
def scene(peer: Peer, tmp_path: Path) -> Iterator[Scene]:
    """Yield the surroundings of an interposer, with the shim. All processes end with the test."""
    with Scene(peer, tmp_path) as scene:
        yield scene


@pytest.fixture
def fake_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Yield a scene with the fake CRIU, for what cannot be seen with the real one."""
    with Scene(fake_peer(tmp_path, monkeypatch), tmp_path) as scene:
        yield scene


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Check that the conversations of a test leave no descriptor in this process."""
    before = open_descriptors()
    yield
    deadline = time.monotonic() + LIMIT_S
    while left := {
        number: what for number, what in open_descriptors().items() if before.get(number) != what
    }:
        assert time.monotonic() < deadline, f"left open: {left}"
        time.sleep(0.002)

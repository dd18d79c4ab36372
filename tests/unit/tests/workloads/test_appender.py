"""Tests of tests/workloads/appender.py: it notices damage that a migration could do to files."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.tests.workloads.running import LIMIT_S, WORKLOADS, serving
from tests.workloads import appender


def _overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _replace(path: Path) -> None:
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed line": (lambda data: _overwrite(data / "append.log", 30, b"7"), "expected line 2"),
    "lost end": (lambda data: os.truncate(data / "append.log", 52), " were written"),
    "doubled line": (lambda data: _append(data / "append.log", appender.log_line(1)), "found b'0"),
    "another file": (lambda data: _replace(data / "append.log"), "is not the file that is open"),
    "mapped page": (lambda data: _overwrite(data / "counter.bin", 100, b"x"), "counter.bin"),
    "lost small file": (lambda data: min((data / "churn").iterdir()).unlink(), "is missing"),
    "risen small file": (
        lambda data: (data / "churn" / "00000000.kept").touch(),
        "should not exist",
    ),
    "changed small file": (
        lambda data: _overwrite(min((data / "churn").iterdir()), 0, b"~~~~"),
        "wrong content",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_appender_notices_damage_for_good(tmp_path: Path, damage: str) -> None:
    inflict, error = DAMAGES[damage]
    with serving("appender.py", "--dir", str(tmp_path), "--interval-ms", "1") as asker:
        status = asker.until(lambda status: status["churned"] >= 2)
        assert status["ok"], status
        inflict(tmp_path)
        status = asker.until(lambda status: not status["ok"])
        assert any(error in found for found in status["errors"]), status
        assert not asker.status()["ok"]


LINES = [appender.log_line(seq) for seq in range(1, 6)]


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (LINES, None),
        ([], None),
        (LINES[1:], "expected line 1"),
        ([*LINES[:2], *LINES[3:]], "expected line 3"),
        ([*LINES[:3], LINES[2], *LINES[3:]], "expected line 4"),
        ([LINES[1], LINES[0]], "expected line 1"),
        ([*LINES[:4], LINES[4][:9]], "torn line"),
        ([*LINES[:4], bytes(appender.LINE_BYTES)], "expected line 5"),
    ],
)
def test_verify_checks_a_log(tmp_path: Path, log: list[bytes], error: str | None) -> None:
    path = tmp_path / "append.log"
    path.write_bytes(b"".join(log))
    command = [sys.executable, "-B", str(WORKLOADS / "appender.py"), "--verify", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=LIMIT_S, check=False)
    result = json.loads(done.stdout)
    assert result["ok"] == (error is None) == (done.returncode == 0)
    assert error is None or error in result["errors"][0]

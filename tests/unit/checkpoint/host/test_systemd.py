"""Tests of checkpoint/host/systemd.py: whom systemd starts again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from checkpoint.host import proc, systemd


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return what a systemctl answers, which tells of one unit by a file; "fails" has it fail."""
    program, said = tmp_path / "systemctl", tmp_path / "said"
    program.write_text(
        "#!/bin/sh\n"
        '[ "$*" = "show --property=MainPID,Restart -- web.service" ] || exit 9\n'
        f"grep -q fails {said} && exit 1\n"
        f"cat {said}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return said


def in_cgroup(monkeypatch: pytest.MonkeyPatch, *paths: str) -> None:
    monkeypatch.setattr(proc, "cgroups", lambda pid: [("", path) for path in paths])


@pytest.mark.parametrize(
    ("paths", "unit"),
    [
        (["/", "/system.slice/web.service"], "web.service"),
        (["/system.slice/web.service/payload"], "web.service"),
        (["/user.slice/user-0.slice/user@0.service/app.slice/web.service"], "web.service"),
        (["/user.slice/user-0.slice/user@0.service/tmux.scope"], "tmux.scope"),
        (["/user.slice/user-0.slice/session-2.scope"], "session-2.scope"),
        (["/", "/docker/1f2e"], None),
    ],
)
def test_a_process_is_in_the_innermost_unit(
    monkeypatch: pytest.MonkeyPatch, paths: list[str], unit: str | None
) -> None:
    in_cgroup(monkeypatch, *paths)
    assert systemd.unit_of(1) == unit


@pytest.mark.parametrize(
    ("said", "shell", "unit"),
    [
        ("Restart=always\nMainPID={me}", "python3", "web.service"),
        ("Restart=on-failure\nMainPID={parent}", "sh", "web.service"),  # the shell around it
        ("Restart=always\nMainPID={parent}", "runner", None),  # which has many children
        ("Restart=no\nMainPID={me}", "sh", None),
        ("Restart=always\nMainPID=1", "sh", None),  # an sshd, say, and its sessions
        ("Restart=always\nMainPID=0", "sh", None),
        ("MainPID={me}", "sh", None),
        ("fails", "sh", None),
    ],
)
def test_a_unit_whose_main_process_it_is_is_started_again(
    monkeypatch: pytest.MonkeyPatch, asked: Path, said: str, shell: str, unit: str | None
) -> None:
    in_cgroup(monkeypatch, "/system.slice/web.service")
    monkeypatch.setattr(proc, "command_name", {os.getpid(): shell}.get)
    with subprocess.Popen(["sleep", "60"]) as process:
        asked.write_text(said.format(me=process.pid, parent=os.getpid()))
        assert systemd.restarting_unit(process.pid) == unit
        process.kill()


def test_without_systemd_nobody_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_cgroup(monkeypatch, "/system.slice/web.service")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert systemd.restarting_unit(os.getpid()) is None


def test_a_scope_is_not_started_again(monkeypatch: pytest.MonkeyPatch, asked: Path) -> None:
    in_cgroup(monkeypatch, "/user.slice/session-2.scope")
    asked.write_text(f"Restart=always\nMainPID={os.getpid()}")
    assert systemd.restarting_unit(os.getpid()) is None

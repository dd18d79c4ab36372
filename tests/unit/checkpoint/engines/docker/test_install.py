"""Tests of checkpoint/engines/docker/install.py, on files of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.engines.docker import install, oci_wrapper
from tests.rig import until

NO_DOCKER = "docker does not run; it will know when it does"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of the program, of docker's settings and of its pid file."""
    monkeypatch.setattr(install, "PROGRAM", tmp_path / "sbin/wrapper")
    monkeypatch.setattr(install, "SETTINGS", tmp_path / "docker/daemon.json")
    monkeypatch.setattr(install, "PID_FILE", tmp_path / "docker.pid")
    return tmp_path


@pytest.fixture
def settings(root: Path) -> Path:
    path = root / "docker/daemon.json"
    path.parent.mkdir()
    return path


@pytest.fixture
def dockerd(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process in dockerd's place, which a SIGHUP ends."""
    monkeypatch.setattr(install, "DAEMON", "sleep")
    with subprocess.Popen(["sleep", "60"]) as process:
        until(
            lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n",
            "the program to have begun",
        )
        (root / "docker.pid").write_text(f"{process.pid}\n")
        yield process
        process.kill()


def test_install_makes_all_files_where_there_are_none(root: Path) -> None:
    program, settings = root / "sbin/wrapper", root / "docker/daemon.json"
    assert install.install() == [
        f"{program}: written",
        f'{settings}: runtimes.migrate = {{"path": "{program}"}}',
        NO_DOCKER,
    ]
    assert program.read_bytes() == Path(oci_wrapper.__file__).read_bytes()
    assert program.stat().st_mode & 0o7777 == 0o755
    assert json.loads(settings.read_text()) == {"runtimes": {"migrate": {"path": str(program)}}}
    assert settings.stat().st_mode & 0o7777 == 0o644
    assert sorted(path.name for path in root.rglob("*")) == [
        "daemon.json",
        "docker",
        "sbin",
        "wrapper",
    ]


def test_what_is_installed_is_on_the_disk_before_it_has_its_name(
    root: Path, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves docker with its old settings or the new ones."""
    settings.write_text('{"debug": true}')
    synced: list[tuple[int, bytes]] = []
    named: list[Path] = []
    real = os.rename

    def fsync(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}")
        synced.append((path.stat().st_ino, path.read_bytes()))

    def rename(old: Path, new: Path) -> None:
        assert len(synced) == len(named) + 1, "before the rename"
        named.append(Path(new))
        real(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    install.install()
    assert named == [root / "sbin/wrapper", settings]
    assert synced == [(path.stat().st_ino, path.read_bytes()) for path in named]


def test_a_second_install_changes_nothing(
    root: Path, settings: Path, dockerd: subprocess.Popen[bytes]
) -> None:
    install.install()
    dockerd.wait()
    before = settings.stat()
    assert install.install() == []
    after = settings.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def test_an_older_program_is_replaced(root: Path, settings: Path) -> None:
    install.install()
    program = root / "sbin/wrapper"
    program.write_text("old")
    program.chmod(0o600)
    assert install.install() == [f"{program}: written"]
    assert program.read_bytes() == Path(oci_wrapper.__file__).read_bytes()
    assert program.stat().st_mode & 0o7777 == 0o755


def test_a_runtime_of_that_name_elsewhere_is_replaced(root: Path, settings: Path) -> None:
    settings.write_text('{"runtimes": {"migrate": {"path": "/old"}}}')
    assert len(install.install()) == 3
    assert json.loads(settings.read_text()) == {
        "runtimes": {"migrate": {"path": str(root / "sbin/wrapper")}}
    }


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_other_settings_and_the_mode_stay(settings: Path, mode: int) -> None:
    others = {
        "log-driver": "json-file",
        "runtimes": {"gvisor": {"path": "/usr/bin/runsc"}},
        "name": "caf\xe9",
    }
    settings.write_text(json.dumps(others))
    settings.chmod(mode)
    install.install()
    found = json.loads(settings.read_text())
    assert set(found["runtimes"]) == {"gvisor", "migrate"}
    del found["runtimes"]["migrate"]
    assert found == others
    assert settings.stat().st_mode & 0o7777 == mode


def test_an_empty_file_of_settings_is_one_without_settings(settings: Path) -> None:
    settings.touch()
    install.install()
    assert set(json.loads(settings.read_text())) == {"runtimes"}


@pytest.mark.parametrize("change", [install.install, install.remove])
@pytest.mark.parametrize("text", ['{"runtimes": {', "no JSON"])
def test_broken_settings_are_left_alone(
    root: Path, settings: Path, change: Callable[[], list[str]], text: str
) -> None:
    settings.write_text(text)
    with pytest.raises(ValueError, match="line 1"):
        change()
    assert settings.read_text() == text
    assert [path for path in root.rglob("*") if path.is_file()] == [settings]


@pytest.mark.parametrize(
    "before", [{}, {"debug": True}, {"runtimes": {"gvisor": {"path": "/usr/bin/runsc"}}, "mtu": 9}]
)
def test_remove_takes_back_what_was_installed(
    root: Path, settings: Path, before: dict[str, object]
) -> None:
    settings.write_text(json.dumps(before))
    settings.chmod(0o600)
    install.install()
    program = root / "sbin/wrapper"
    assert install.remove() == [
        f"{settings}: runtimes.migrate removed",
        NO_DOCKER,
        f"{program}: removed",
    ]
    assert json.loads(settings.read_text()) == before
    assert settings.stat().st_mode & 0o7777 == 0o600
    assert not program.exists()
    assert install.remove() == []


def test_remove_where_there_is_nothing_does_nothing(root: Path) -> None:
    assert install.remove() == []
    assert list(root.iterdir()) == []


def test_another_program_with_dockerds_number_is_left_alone(
    root: Path, settings: Path, dockerd: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "DAEMON", "dockerd")
    assert NO_DOCKER in install.install()
    assert dockerd.poll() is None


@pytest.mark.parametrize("change", [install.install, install.remove])
def test_dockerd_is_told(
    root: Path, settings: Path, dockerd: subprocess.Popen[bytes], change: Callable[[], list[str]]
) -> None:
    if change is install.remove:
        settings.write_text('{"runtimes": {"migrate": {"path": "/old"}}}')
    assert f"dockerd (process {dockerd.pid}): told to read its settings again" in change()
    assert dockerd.wait(timeout=10) == -signal.SIGHUP


@pytest.mark.parametrize("pid", ["", "no number", "ended"])
def test_a_pid_file_that_was_left_behind_names_no_dockerd(root: Path, pid: str) -> None:
    if pid == "ended":
        with subprocess.Popen(["true"]) as process:
            pid = str(process.pid)
    (root / "docker.pid").write_text(pid)
    assert install.install()[-1] == NO_DOCKER

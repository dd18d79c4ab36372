"""checkpoint/host: memory, programs; checkpoint/runtimes: runc; checkpoint/criu: logs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from checkpoint.criu import log as criu_log
from checkpoint.errors import CommandFailed, ContainerNotFound, ContainerNotRunning
from checkpoint.host import memory
from checkpoint.host.run import find_program, run, start
from checkpoint.runtimes import runc
from checkpoint.runtimes.registry import RUNTIMES, runtime_named
from checkpoint.runtimes.runc import Runc, limits
from tests.unit.children import LIMIT_S, child

MIB = 1 << 20

# --- memory --------------------------------------------------------------------------------------------------


def test_what_is_available_is_some_of_what_there_is() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 16 * MIB < memory.available_bytes() <= total


def test_a_cgroup_bounds_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_cgroup_bounds", lambda: [3 * MIB, 5 * MIB])
    assert memory.available_bytes() == 3 * MIB
    monkeypatch.setattr(memory, "_cgroup_bounds", lambda: [-1])
    assert memory.available_bytes() == 0


def test_resident_memory_grows_by_what_is_written() -> None:
    program = "print('ready'); input(); block = bytearray(b'x') * (64 << 20); print('done'); input()"
    with child(program) as found:
        before = memory.resident_bytes([found.pid])
        assert found.ask() == "done"
        assert memory.resident_bytes([found.pid]) - before >= 64 * MIB
    assert memory.resident_bytes([found.pid]) == 0, "one that went away uses none"


# --- programs ------------------------------------------------------------------------------------------------


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_output_and_input() -> None:
    assert run(python("print(input()[::-1])"), stdin="abc\n") == "cba\n"


def test_without_input_there_is_none() -> None:
    assert run(python("import sys; print(repr(sys.stdin.read()))")) == "''\n"


def test_a_bad_end() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(python("import sys; print('first', file=sys.stderr); print('last', file=sys.stderr); sys.exit(7)"))
    assert caught.value.status == 7
    assert caught.value.stderr == "first\nlast"
    assert "last" in str(caught.value)


def test_no_such_program() -> None:
    for door in (run, start):
        with pytest.raises(CommandFailed) as caught:
            door(["/no/such/program"])
        assert caught.value.status == 127


def test_no_end() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sleep", "1000"], timeout_s=0.01)
    assert caught.value.status == 124


def test_a_started_program_is_out_of_our_terminals_reach() -> None:
    with start(["sleep", "1000"]) as process:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
        process.kill()
        process.wait(LIMIT_S)


def test_programs_are_found(tmp_path: Path) -> None:
    for name, mode in (("a", 0o755), ("b", 0o644)):
        (tmp_path / name).touch(mode)
        (tmp_path / name).chmod(mode)
    (tmp_path / "c").mkdir()
    path = f"/nowhere:{tmp_path}"
    assert find_program("a", path=path) == tmp_path / "a"
    assert find_program("b", path=path) is None, "not executable"
    assert find_program("c", path=path) is None, "a directory"
    assert find_program("no-such-program", path=path) is None
    assert find_program("sh", path="/bin") == Path("/bin/sh")


# --- runc ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cgroups", "resources"),
    [
        ({}, {}),
        ({"memory": 0, "cpu_shares": 0, "pids_limit": 0, "cpuset_cpus": ""}, {}),
        ({"memory": 256 * MIB}, {"memory": {"limit": 256 * MIB}}),
        (
            {"memory": 9, "memory_reservation": 8, "memory_swap": -1},
            {"memory": {"limit": 9, "reservation": 8, "swap": -1}},
        ),
        (
            {"cpu_shares": 512, "cpu_quota": 50000, "cpu_period": 100000, "cpuset_cpus": "0-1", "cpuset_mems": "0"},
            {"cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"}},
        ),
        ({"pids_limit": 100}, {"pids": {"limit": 100}}),
        ({"pids_limit": -1}, {"pids": {"limit": -1}}),
        ({"name": "web", "devices": [{}], "oom_kill_disable": True, "freezer": ""}, {}),
    ],
)
def test_limits_as_the_spec_has_them(cgroups: dict[str, Any], resources: dict[str, Any]) -> None:
    assert limits(cgroups) == resources


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A container named web as runc leaves it on disk, and a `runc` that prints its state. Returns its bundle."""
    bundle = tmp_path / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    (bundle / "config.json").write_text(
        json.dumps(
            {
                "linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/web"}]},
                "mounts": [
                    {"destination": "/proc", "type": "proc", "source": "proc"},
                    {"destination": "/a", "type": "bind", "source": "/srv/a", "options": ["rw"]},
                    {"destination": "/b", "source": "/srv/b", "options": ["rbind", "ro"]},
                ],
            }
        )
    )
    (tmp_path / "run/web").mkdir(parents=True)
    internal = {"config": {"cgroups": {"memory": 256 * MIB}}, "external_descriptors": ["/dev/null", "pipe:[1]"]}
    (tmp_path / "run/web/state.json").write_text(json.dumps(internal))
    set_state(tmp_path, status="running")
    monkeypatch.setattr(runc, "STATE_ROOT", tmp_path / "run")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return bundle


def set_state(directory: Path, status: str, exit_status: int = 0) -> None:
    """Make `runc state web` print this."""
    bundle = directory / "bundle"
    state = {"status": status, "pid": 4242, "bundle": str(bundle), "rootfs": str(bundle / "rootfs")}
    program = directory / "bin/runc"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        f"#!/bin/sh\n[ \"$*\" = 'state web' ] || exit 99\necho '{json.dumps(state)}'\n"
        f"echo 'the reason' >&2\nexit {exit_status}\n"
    )
    program.chmod(0o755)


def test_a_container_as_runc_describes_it(web: Path) -> None:
    found = Runc().inspect("web")
    assert (found.id, found.pid, found.bundle, found.rootfs) == ("web", 4242, web, web / "rootfs")
    assert found.resources == {"memory": {"limit": 256 * MIB}}
    assert found.descriptors == ("/dev/null", "pipe:[1]")
    assert found.network_namespace == "/run/netns/web"
    assert found.bind_mounts == (("/srv/a", True), ("/srv/b", False))
    assert Runc().exists("web")


@pytest.mark.parametrize("status", ["created", "paused", "stopped"])
def test_a_container_that_does_not_run(web: Path, status: str) -> None:
    set_state(web.parent, status)
    with pytest.raises(ContainerNotRunning, match=status):
        Runc().inspect("web")


def test_a_container_whose_state_runc_cannot_read(web: Path) -> None:
    set_state(web.parent, "running", exit_status=1)
    with pytest.raises(ContainerNotFound, match="the reason"):
        Runc().inspect("web")


@pytest.mark.parametrize("name", ["db", "", ".", "..", "../run/web", "web/", "/", "w\0b", "x" * 5000, "--help"])
def test_no_such_container(web: Path, name: str) -> None:
    """Nothing a user can write reaches runc as anything but a name that it knows."""
    with pytest.raises(ContainerNotFound):
        Runc().inspect(name)


def test_forgetting_what_is_not_there(web: Path) -> None:
    Runc().delete("db")


def test_runtimes_by_name() -> None:
    assert set(RUNTIMES) >= {"runc"}
    for name in RUNTIMES:
        assert runtime_named(name).name == name
    with pytest.raises(ContainerNotFound, match="lxc"):
        runtime_named("lxc")


# --- logs ----------------------------------------------------------------------------------------------------

CRIU_LOG = """\
(00.000010) Version: 4.2.1
(00.001000) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.002000) Warn  (criu/kerndat.c:1153): something
(00.003000)  41: Error (criu/mount.c:1088): mnt: Can't lookup mount=5 for fd=1 path=/var/log/x
(00.004000) Error (criu/cr-dump.c:2111): Dumping FAILED.
"""


def test_errors_of_criu(tmp_path: Path) -> None:
    path = tmp_path / "dump.log"
    path.write_text(CRIU_LOG)
    assert criu_log.errors(path) == [
        "Error (criu/mount.c:1088): mnt: Can't lookup mount=5 for fd=1 path=/var/log/x",
        "Error (criu/cr-dump.c:2111): Dumping FAILED.",
    ]


def test_only_the_last_errors_of_many(tmp_path: Path) -> None:
    path = tmp_path / "dump.log"
    path.write_text("".join(f"(00.1) Error (a.c:1): {number}\n" for number in range(100)))
    found = criu_log.errors(path)
    assert len(found) == criu_log.MOST
    assert found[-1] == "Error (a.c:1): 99"


def test_no_log_and_no_text(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe Error (\x80): x\n")
    for read in (criu_log.errors, criu_log.runtime_errors):
        assert read(tmp_path / "none") == []
    assert len(criu_log.errors(tmp_path / "binary")) == 1
    assert criu_log.runtime_errors(tmp_path / "binary") == []


RUNC_LOG = r"""
time="2026-11-23T09:00:00Z" level=warning msg="no matter"
time="2026-11-23T09:00:01Z" level=error msg="criu failed: type NOTIFY errno 0\nlog file: \"dump.log\""
time="2026-11-23T09:00:02Z" level=error msg=short
{"level":"info","msg":"no matter","time":"2026-11-23T09:00:03Z"}
{"level":"error","msg":"container with given ID already exists","time":"2026-11-23T09:00:04Z"}
{"level":"error"}
{"level":"error","msg":"cut o
"""


def test_errors_of_runc(tmp_path: Path) -> None:
    path = tmp_path / "runc.log"
    path.write_text(RUNC_LOG)
    first, *others = criu_log.runtime_errors(path)
    assert first.startswith("criu failed: type NOTIFY errno 0")
    assert first.endswith('log file: "dump.log"')
    assert others == ["short", "container with given ID already exists", '{"level":"error"}']

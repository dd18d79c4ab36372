"""The workloads run, and their checks can fail: the damage that a move could do is done here and must be found."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tests.workloads import appender, churn, dirtier, redis_data, tree_stage
from tests.workloads.fake_redis import fake_redis

WORKLOADS = Path(__file__).parents[1] / "workloads"
LIMIT_S = 15  # for anything that should take well under a second
Status = dict[str, Any]


@contextlib.contextmanager
def running(script: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-B", str(WORKLOADS / script), *args]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def read_line(stream: IO[str] | None) -> str:
    assert stream is not None
    assert select.select([stream], [], [], LIMIT_S)[0], "no output in time"
    return stream.readline()


def tell(process: subprocess.Popen[str], line: str) -> Status:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    reply: Status = json.loads(read_line(process.stdout))
    return reply


class Asker:
    """A client of a workload's line server, on one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rw")

    def ask(self, line: str) -> str:
        self._file.write(line + "\n")
        self._file.flush()
        return self._file.readline().strip()

    def status(self) -> Status:
        reply: Status = json.loads(self.ask("STATUS"))
        return reply

    def until(self, condition: Callable[[Status], bool]) -> Status:
        """Ask until the condition holds; the workload offers no way to be told."""
        deadline = time.monotonic() + LIMIT_S
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, f"not in time, last: {status}"
            time.sleep(0.01)
        return status

    def close(self) -> None:
        self._file.close()
        self._sock.close()


@contextlib.contextmanager
def serving(script: str, *args: str) -> Iterator[Asker]:
    """A workload on a port of its own, and a client of it."""
    with running(script, "--host", "127.0.0.1", "--port", "0", *args) as process:
        word, port = read_line(process.stdout).split()
        assert word == "PORT"
        sock = socket.create_connection(("127.0.0.1", int(port)), timeout=LIMIT_S)
        with contextlib.closing(Asker(sock)) as asker:
            yield asker


def test_listener_counts_pings_over_tcp_and_unix(tmp_path: Path) -> None:
    path = tmp_path / "listener.sock"
    with serving("listener.py", "--unix", str(path)) as asker:
        assert asker.ask("PING a") == "PONG a 1"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(LIMIT_S)
            sock.connect(str(path))
            with contextlib.closing(Asker(sock)) as other:
                assert other.ask("PING b c") == "PONG b c 2"
        assert asker.ask("PING d") == "PONG d 3"
        assert asker.ask("HELLO").startswith("ERROR")


# tree


def test_tree_is_sound_and_ends_with_its_root() -> None:
    with serving("tree.py", "--mib", "1") as asker:
        status = asker.until(
            lambda status: status["rounds"] >= 50 and status["ticks"] >= 5 and status["sweeps"] >= 1
        )
        assert status["ok"], status
        assert status["errors"] == []
        assert status["processes"] == 5
        assert status["counter"] > 0
        assert all(count > 0 for count in status["timers"].values())
    deadline = time.monotonic() + LIMIT_S
    while alive := [pid for pid in status["pids"].values() if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"left behind: {alive}"
        time.sleep(0.01)


@pytest.mark.parametrize("victim", ["signals", "threads", "sleeper", "poller"])
def test_tree_reports_a_killed_process_for_good(victim: str) -> None:
    with serving("tree.py", "--mib", "1") as asker:
        os.kill(asker.status()["pids"][victim], signal.SIGKILL)
        status = asker.until(lambda status: not status["ok"] and status["processes"] < 5)
        if victim == "sleeper":  # not root's child: its neighbours tell
            asker.until(
                lambda status: any(error.startswith("threads: ") for error in status["errors"])
            )
        else:
            asker.until(lambda status: any(f"{victim} (" in error for error in status["errors"]))
        assert status["errors"]
        assert not asker.status()["ok"]


def test_tree_reports_what_has_stopped() -> None:
    with serving("tree.py", "--mib", "1", "--stalled-periods", "250") as asker:
        os.kill(asker.status()["pids"]["signals"], signal.SIGSTOP)
        status = asker.until(lambda status: len(status["errors"]) >= 2)
        assert {error.split(" at ")[0] for error in status["errors"]} >= {
            "SIGALRM has stopped",
            "the ring has stopped",
        }


def _stage() -> tuple[tree_stage.Shared, tree_stage.Stage]:
    shared = tree_stage.Shared()
    stage = tree_stage.Stage(shared, tree_stage.SIGNALS, 4 * tree_stage.PAGE_BYTES)
    stage.forward(tree_stage.pack_token(1, 0, 0, 0))
    assert shared.errors() == []
    return shared, stage


def _flipped(token: bytes, at: int) -> bytes:
    return token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]


@pytest.mark.parametrize(
    ("token", "error"),
    [
        (tree_stage.pack_token(2, 0, 0, 0), None),
        (tree_stage.pack_token(2, 0, 1, 0), None),
        (tree_stage.pack_token(1, 0, 0, 0), "token 1 came, 2 was due"),
        (tree_stage.pack_token(3, 0, 0, 0), "token 3 came, 2 was due"),
        (tree_stage.pack_token(2, 1, 0, 0), "passed 1 stages instead of 0"),
        (tree_stage.pack_token(2, 0, 1, 5), "baton 2 says 5, the shared counter is 0"),
        (_flipped(tree_stage.pack_token(2, 0, 0, 0), 30), "checksum"),
        (_flipped(tree_stage.pack_token(2, 0, 0, 0), tree_stage.TOKEN_BYTES - 1), "checksum"),
    ],
)
def test_a_stage_checks_tokens(token: bytes, error: str | None) -> None:
    shared, stage = _stage()
    stage.forward(token)
    assert (
        [error in found for found in shared.errors()] == [True] if error else shared.errors() == []
    )


def test_a_stage_checks_its_memory() -> None:
    shared, stage = _stage()
    memory = stage._pattern._memory
    memory[3 * tree_stage.PAGE_BYTES + 17] ^= 1
    for number in range(2, 6):
        stage.forward(tree_stage.pack_token(number, 0, 0, 0))
    assert shared.errors() == ["signals: private memory changed"]


# appender


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


# dirtier


@pytest.mark.parametrize("kind", [[], ["--kind", "shared"], ["--kind", "memfd"]])
def test_dirtier_goes_on_writing_and_is_sound(kind: list[str]) -> None:
    with serving("dirtier.py", "--mib", "4", "--mb-per-second", "40", *kind) as asker:
        first = asker.status()
        assert first["pages"] == 1024
        assert asker.until(lambda status: status["writes"] > first["writes"] + 3000)["ok"]


def test_dirtier_finds_stale_swapped_and_changed_pages() -> None:
    pages = dirtier.Pages(16 * dirtier.PAGE_BYTES, shared=False)
    stale = pages.memory[: dirtier.PAGE_BYTES]
    pages.write(0)
    assert pages.check() == []
    pages.memory[: dirtier.PAGE_BYTES] = stale
    pages.memory[5 * dirtier.PAGE_BYTES : 6 * dirtier.PAGE_BYTES] = bytes(dirtier.PAGE_BYTES)
    pages.memory[7 * dirtier.PAGE_BYTES : 8 * dirtier.PAGE_BYTES] = stale
    pages.memory[10 * dirtier.PAGE_BYTES - 1] ^= 1
    assert pages.check() == [
        "page 0: expected version 2, found page 0 version 1",
        "page 5: expected version 1, found page 0 version 0, body not as its checksum",
        "page 7: expected version 1, found page 0 version 1",
        "page 9: expected version 1, found page 9 version 1, body not as its checksum",
    ]
    pages.versions[0] = 1  # a log as stale as its page would pass, but for the count of writes
    assert pages.check()[0] == "log holds 16 writes, 17 were made"


# churn


def test_churn_goes_on_changing_memory_and_is_sound(tmp_path: Path) -> None:
    with serving(
        "churn.py", "--mib", "16", "--mb-per-second", "40", "--directory", str(tmp_path)
    ) as asker:
        first = asker.status()
        assert asker.until(
            lambda now: (
                now["forks"] > 4
                and all(now[kind] > first[kind] + 5 for kind in ("maps", "growths", "drops"))
            )
        )["ok"]


@pytest.mark.parametrize(
    "kind", ["private", "shared", "file", "copy on write", "dropped", "grown", "young 3"]
)
def test_churn_finds_a_changed_byte_in_every_kind_of_memory(tmp_path: Path, kind: str) -> None:
    changing = churn.Churn(4 << 20, tmp_path, 1e6)
    changing._timers = [timer for timer in changing._timers if timer._action != changing._fork]
    for _ in range(20):
        changing.tick()
        for timer in changing._timers:
            timer._due = 0.0
    assert changing.report()["ok"], changing.report()
    parts = changing.parts_by_name()
    page = parts[kind].count // 2
    parts[kind].memory[page * dirtier.PAGE_BYTES + 100] ^= 1
    report = changing.report()
    assert not report["ok"]
    assert [f"{kind}: page {page}"] == [error.split(": expected")[0] for error in report["errors"]]  # type: ignore[attr-defined]


# redis


def test_client_counts_and_gives_a_window_its_worst_gap() -> None:
    gate = threading.Event()
    gate.set()
    blocked = threading.Event()

    def on_incr(value: int) -> bytes:
        if not gate.is_set():
            blocked.set()
            gate.wait(LIMIT_S)
        return b":%d\r\n" % value

    with (
        fake_redis(on_incr) as server,
        running("redis_client.py", "127.0.0.1", str(server.port)) as process,
    ):
        deadline = time.monotonic() + LIMIT_S
        while tell(process, "MARK warm")["last"] is None:
            assert time.monotonic() < deadline
        gate.clear()
        assert blocked.wait(LIMIT_S)
        before = tell(process, "MARK frozen")
        time.sleep(0.3 + before["worst_gap_ms"] / 1000)  # the gap to be seen
        during = tell(process, "MARK thawing")
        assert during["count"] == 0
        assert during["worst_gap_ms"] >= 300 + before["worst_gap_ms"]
        gate.set()
        output, _ = process.communicate(timeout=LIMIT_S)  # the end of stdin ends it
    summary = json.loads(output)
    assert summary["error"] is None
    assert summary["contiguous"]
    assert summary["first"] == 1
    assert summary["last"] == summary["count"]
    assert summary["worst_gap_ms"] >= during["worst_gap_ms"]
    worst = max(summary["gaps"], key=lambda gap: gap["ms"])
    assert worst["ms"] == summary["worst_gap_ms"]
    assert abs(time.time_ns() - worst["start_unix_ns"]) < 60e9
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("late_reply", "error", "contiguous"),
    [
        (b":22\r\n", "21 was due, 22 came", False),
        (b":20\r\n", "21 was due, 20 came", False),
        (None, "closed the connection", True),
        (b"-ERR no\r\n", "unexpected reply", True),
        (b":21\r\n:22\r\n", "unexpected reply", True),
        (b"", "no reply for", True),
    ],
)
def test_client_reports_a_broken_promise(
    late_reply: bytes | None, error: str, contiguous: bool
) -> None:
    limits = ("--seconds", "1", "--reply-timeout-s", "0.5")
    with (
        fake_redis(lambda value: late_reply if value == 21 else b":%d\r\n" % value) as server,
        running("redis_client.py", "127.0.0.1", str(server.port), *limits) as process,
    ):
        summary = json.loads(read_line(process.stdout))
        assert process.wait(LIMIT_S) == 1
    assert error in summary["error"]
    assert summary["contiguous"] is contiguous
    assert summary["count"] >= 20


def test_client_ends_on_sigterm() -> None:
    with (
        fake_redis() as server,
        running("redis_client.py", "127.0.0.1", str(server.port)) as process,
    ):
        tell(process, "MARK up")  # only now has it a handler
        process.send_signal(signal.SIGTERM)
        assert json.loads(read_line(process.stdout))["error"] is None
        assert process.wait(LIMIT_S) == 0


def test_data_digest_sees_every_change_and_no_order() -> None:
    with fake_redis() as server, redis_data.Redis("127.0.0.1", server.port) as redis:
        filled = redis_data.fill(redis, 0.5)
        whole = redis_data.digest(redis)
        assert whole["keys"] == filled["keys"]
        original = dict(server.store)
        server.store[b"client:counter"] = b"5"
        assert redis_data.digest(redis) != whole
        assert redis_data.digest(redis, ["client:*"]) == whole
        server.store = dict(reversed(original.items()))
        assert redis_data.digest(redis) == whole
        for kind, change in CHANGES.items():
            key = next(key for key in original if kind in key)
            server.store = {**original, key: change(original[key])}
            assert redis_data.digest(redis) != whole, kind
        server.store = dict(list(original.items())[1:])
        assert redis_data.digest(redis) != whole
        server.store = {}
        redis_data.fill(redis, 0.5)
        assert redis_data.digest(redis) == whole
        redis_data.fill(redis, 0.5, seed=2)
        assert redis_data.digest(redis) != whole


CHANGES: dict[bytes, Callable[[Any], Any]] = {
    b"string": lambda value: value[:-1],
    b"hash": lambda value: {**value, b"field-0": value[b"field-1"]},
    b"list": lambda value: value[::-1],
}


def test_data_command_line() -> None:
    with fake_redis() as server:
        command = [
            sys.executable,
            "-B",
            str(WORKLOADS / "redis_data.py"),
            "127.0.0.1",
            str(server.port),
        ]
        filled = json.loads(
            subprocess.check_output([*command, "fill", "--mib", "1"], timeout=LIMIT_S)
        )
        assert filled["value_bytes"] >= 1 << 20
        result = json.loads(
            subprocess.check_output([*command, "digest", "--exclude", "x*"], timeout=LIMIT_S)
        )
        assert result["keys"] == filled["keys"]
        assert len(result["digest"]) == 64

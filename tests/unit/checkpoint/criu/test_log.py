"""Tests of checkpoint/criu/log.py: the lines that matter of the logs of CRIU and runtimes."""

from __future__ import annotations

import json
from pathlib import Path

from checkpoint.criu.log import MOST, MOST_BYTES, errors, last_words, runtime_errors


def test_errors_are_given_without_their_time_and_without_harmless_ones(tmp_path: Path) -> None:
    path = tmp_path / "dump.log"
    path.write_text(
        "(00.000001) Version: 4.2\n"
        "(00.000100) Error (criu/kerndat.c:1): Can't find /run/criu.kdat\n"
        "(00.000110) Warn  (criu/x.c:1): an Error of words\n"
        "(00.000200) Error (criu/rlimit.c:9): Can't set RLIMIT_NOFILE\n"
        "(00.000300)   1234: Error (criu/files-reg.c:2): Can't lookup mount=2\n"
        "(00.000400) Error (criu/cr-dump.c:3): Dumping FAILED.\n"
    )
    assert errors(path) == [
        "Error (criu/files-reg.c:2): Can't lookup mount=2",
        "Error (criu/cr-dump.c:3): Dumping FAILED.",
    ]


def test_only_the_last_errors_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "dump.log"
    path.write_text("".join(f"(00.1) Error (a.c:{number}): no\n" for number in range(MOST + 5)))
    assert errors(path) == [f"Error (a.c:{number}): no" for number in range(5, MOST + 5)]
    path.write_text(
        "".join(json.dumps({"level": "error", "msg": str(n)}) + "\n" for n in range(MOST + 5))
    )
    assert runtime_errors(path) == [str(number) for number in range(5, MOST + 5)]


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "dump.log"
    path.write_bytes(b"(00.1) Error (a.c:1): name \xff\n")
    assert errors(path) == ["Error (a.c:1): name \ufffd"]


def test_the_errors_of_a_runtimes_log_are_its_messages(tmp_path: Path) -> None:
    path = tmp_path / "runtime.log"
    lines = [
        {"level": "debug", "msg": "no", "time": "t"},
        {"level": "error", "msg": 'a "quoted" one', "time": "t"},
        {"level": "warning", "msg": "no", "time": "t"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert runtime_errors(path) == ['a "quoted" one']


def test_a_json_line_cut_off_does_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "runtime.log"
    path.write_text(json.dumps({"level": "error", "msg": "whole"}) + '\n{"level": "err')
    assert runtime_errors(path) == ["whole"]


def test_a_log_that_is_not_there_has_no_errors(tmp_path: Path) -> None:
    assert errors(tmp_path / "none") == []
    assert runtime_errors(tmp_path / "none") == []


def test_json_that_is_no_entry_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "runtime.log"
    lines = [
        "[]",
        "1",
        "null",
        '"error"',
        "[" * 100_000,
        "9" * 10_000,
        '{"level": "error", "msg": ["no", "text"]}',
    ]
    path.write_text("\n".join(lines))
    assert runtime_errors(path) == ["['no', 'text']"]


def test_only_the_end_of_a_large_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "dump.log"
    with path.open("wb") as file:
        file.write(b"(00.1) Error (a.c:1): the first\n")
        file.truncate(1 << 32)
        file.seek(0, 2)
        file.write(b"\n(00.1) Error (a.c:2): the last\n" + b"x" * 100)
    assert errors(path) == ["Error (a.c:2): the last"]
    assert last_words(path) == ["x" * 100]
    assert MOST_BYTES < 1 << 24


def test_a_name_in_a_log_makes_no_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "dump.log"
    path.write_bytes(
        b"(00.1) Error (a.c:1): open /x\rError (b.c:1): forged\x0cError (c.c:1): too\n"
    )
    assert errors(path) == ["Error (a.c:1): open /x\rError (b.c:1): forged\x0cError (c.c:1): too"]

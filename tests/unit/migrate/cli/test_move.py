"""Tests of migrate/cli/move.py: however a migration ends, one line, a code and the report.

The code is a documented one, and no traceback is printed. The command line's options are the
program's.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import logging
import platform
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate import errors, logs
from migrate.cli import move
from migrate.cli.exit_codes import CODES
from migrate.decisions.convergence import OnNoConverge, Policy
from migrate.decisions.write_tracking import Mode
from migrate.errors import BadRequest
from migrate.limits import Limits
from migrate.options import Options
from migrate.report import Report


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory where logs are kept."""
    monkeypatch.setattr(logs, "DIRECTORY", tmp_path / "log")
    return tmp_path / "log"


def ends_with(error: BaseException | None, outcome: str = "refused") -> Callable[..., None]:
    """Return a fake of move_container that ends with an error and an outcome."""

    def move_container(report: Report, *_: object) -> None:
        report.outcome = outcome
        logging.getLogger("migrate").info("a step\x1b[2J")
        logging.getLogger("migrate").debug("a detail")
        if error is not None:
            raise error

    return move_container


ENDS: list[tuple[BaseException | None, str, int, str | None, str | None]] = [
    (None, "done", 0, None, None),
    (errors.NameTaken("web", "beta", "runc"), "refused", 40, "NameTaken", "NameTaken"),
    (errors.LeftBehind("beta", "a mount"), "resumed", 51, "LeftBehind", "LeftBehind"),
    (errors.Interrupted(signal.SIGTERM), "rolled back", 143, "Interrupted", "Interrupted"),
    (KeyboardInterrupt(), "refused", 130, "Interrupted", "Interrupted"),
    (KeyboardInterrupt(), "done", 0, None, None),
    (KeyError("resumed"), "killed", 70, "Defect", "KeyError"),
    (RuntimeError("can't start new thread"), "killing", 70, "Defect", "RuntimeError"),
    (OSError(errno.EMFILE, "Too many open files"), "rolling back", 70, "Defect", "OSError"),
]


@pytest.mark.parametrize(("error", "outcome", "code", "error_kind", "cause_kind"), ENDS)
def test_the_report_is_printed_however_the_move_ends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException | None,
    outcome: str,
    code: int,
    error_kind: str | None,
    cause_kind: str | None,
) -> None:
    monkeypatch.setattr(move, "move_container", ends_with(error, outcome))
    assert move.main(["web", "beta", "--json"]) == code
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert (report["container"], report["outcome"]) == ("web", outcome)
    assert (report["error_kind"], report["cause_kind"]) == (error_kind, cause_kind)
    assert len(said.err.splitlines()) == (0 if error_kind is None else 1), said.err
    assert "Traceback" not in said.err
    assert report["error"] is None or report["error"] in said.err


def test_a_defect_says_that_it_is_one_and_where_to_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kept: Path
) -> None:
    monkeypatch.setattr(move, "move_container", ends_with(TypeError("no such argument"), "killed"))
    assert move.main(["web", "beta", "--json"]) == CODES[errors.Defect]
    captured = capsys.readouterr()
    said, report = captured.err, json.loads(captured.out)
    directory = kept / report["migration_id"]
    assert report["log_directory"] == str(directory)
    assert said.endswith(f"; logs: {directory}\n")
    assert "a step" in (directory / "source-move.log").read_text()
    assert "in move_container" in (directory / "source-traceback.txt").read_text()
    assert json.loads((directory / "source-report.json").read_text())["outcome"] == "killed"
    for words in (
        "a defect in this program",
        "TypeError: no such argument",
        "beta",
        "'killed'",
        "report this",
    ):
        assert words in said


@pytest.mark.parametrize(
    "words", [["web"], ["web", "beta", "--max-rounds", "0"], ["web", "a b"], ["--nonsense"]]
)
def test_a_command_line_that_makes_no_sense_is_reported_too(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert move.main([*words, "--json"]) == CODES[errors.BadRequest]
    said = capsys.readouterr()
    assert json.loads(said.out)["error_kind"] == "BadRequest"
    assert len(said.err.splitlines()) == 1


def test_each_step_is_printed_if_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a container or the other host has chosen does nothing to the terminal."""
    monkeypatch.setattr(move, "move_container", ends_with(None, "done"))
    assert move.main(["web", "beta", "--verbose"]) == 0
    said = capsys.readouterr().err
    assert said.endswith(f" {platform.node()}: a step\\x1b[2J\n")
    assert "a detail" not in said
    assert move.main(["web", "beta", "--debug"]) == 0
    said = capsys.readouterr().err
    assert f" {platform.node()} MainThread migrate: a step" in said
    assert f" {platform.node()} MainThread migrate: a detail\n" in said
    assert "\x1b" not in said
    assert move.main(["web", "beta"]) == 0
    assert "a step" not in capsys.readouterr().err


def test_where_no_log_can_be_kept_the_error_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kept: Path
) -> None:
    kept.write_text("not a directory")
    monkeypatch.setattr(move, "move_container", ends_with(TypeError("no such argument"), "killed"))
    assert move.main(["web", "beta", "--json"]) == CODES[errors.Defect]
    captured = capsys.readouterr()
    assert "no logs could be kept" in captured.err
    assert json.loads(captured.out)["log_directory"] is None


def test_no_log_is_kept_of_what_is_no_failure(monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    for error in (None, errors.NameTaken("web", "beta", "runc"), errors.Interrupted(signal.SIGINT)):
        monkeypatch.setattr(move, "move_container", ends_with(error))
        move.main(["web", "beta"])
    assert not kept.exists()


def test_help_and_version_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--help", "--version"):
        with pytest.raises(SystemExit) as ended:
            move.main([word])
        assert ended.value.code == 0
        assert capsys.readouterr().out


def test_a_text_that_the_terminal_cannot_show_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    monkeypatch.setattr(move, "move_container", ends_with(errors.NoSuchContainer("no '\u00fc'")))
    assert move.main(["\u00fc", "beta"]) == CODES[errors.NoSuchContainer]


def options(*words: str) -> Options:
    return move.options_of(move.parser().parse_args(["ctr", "host", *words]), Limits())


def test_the_defaults_of_the_command_line_are_those_of_the_program() -> None:
    assert options() == Options()


def test_every_option_reaches_the_options_of_the_migration() -> None:
    words = "--mode stop-copy --max-downtime 50 --on-no-converge throttle --max-rounds 4"
    words += " --max-precopy-time 9 --bandwidth-limit 2M"
    policy = Policy(
        max_downtime_ms=50, max_rounds=4, timeout_s=9, on_no_converge=OnNoConverge.THROTTLE
    )
    assert options(*words.split(), "--bandwidth-limit", "2M") == Options(
        mode=Mode.STOP_COPY, policy=policy, bandwidth_limit=2_000_000
    )


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [("1000", 1000), ("1K", 1000), ("50M", 50_000_000), ("1.5g", 1_500_000_000)],
)
def test_a_rate_is_a_number_with_a_scale(text: str, bytes_per_s: int) -> None:
    assert move.rate(text) == bytes_per_s


@pytest.mark.parametrize(
    "text", ["", "M", "fast", "-1M", "0", "999", "1e9", "nan", "inf", "50MB", "9" * 20, "\uff11M"]
)
def test_a_text_that_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="50M"):
        move.rate(text)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.5", "x", "\u00b2", "\uff11", "1\n", "9" * 10, "9" * 5000]
)
def test_a_text_that_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="from 1 to"):
        move.count(text)


def test_an_option_that_makes_no_sense_is_a_bad_request() -> None:
    with pytest.raises(
        BadRequest,
        match="--max-downtime: '0' is not a number from 1 to 999999999; nothing was changed",
    ):
        options("--max-downtime", "0")

"""migrate/cli/move.py and ctl.py: however it ends, one line, a documented exit code, the report, no traceback."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.engines.docker import install
from migrate import errors, logs
from migrate.agent import control as recover
from migrate.cli import ctl, move
from migrate.cli.exit_codes import CODES, CTL_CODES
from migrate.report import Report

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where logs are kept."""
    monkeypatch.setattr(logs, "DIRECTORY", tmp_path / "log")
    return tmp_path / "log"


def ends_with(error: BaseException | None, outcome: str = "refused") -> Callable[..., None]:
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


def test_each_step_is_printed_for_who_wants_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without what a container or the other host might do to the terminal by it."""
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
    for main in (move.main, ctl.main):
        for word in ("--help", "--version"):
            with pytest.raises(SystemExit) as ended:
                main([word])
            assert ended.value.code == 0
            assert capsys.readouterr().out


#: Streams that are closed or that nobody reads any more, as a shell makes them.
CLOSED = [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "| true", "2>&1 | true"]


@pytest.mark.parametrize("streams", CLOSED)
@pytest.mark.parametrize(
    ("program", "words", "code"),
    [
        ("move", "x 'a b' --json", 2),
        ("move", "--help", 0),
        ("ctl", "--version", 0),
        ("ctl", "status", 0),
    ],
)
def test_whoever_reads_may_have_left(
    streams: str, program: str, words: str, code: int, tmp_path: Path
) -> None:
    """No traceback, no complaint of Python's as it ends, and the code is the move's."""
    text = f"import sys; from migrate.cli.{program} import main; sys.exit(main())"
    script = f"exec 3>{tmp_path}/code; {{ sleep 0.3; {sys.executable} -c '{text}' {words};"
    script += f" echo $? >&3; }} {streams}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (tmp_path / "code").read_text().strip() == str(code)
    for output in (done.stdout, done.stderr):
        assert "Traceback" not in output
        assert "Exception ignored" not in output


def test_no_other_descriptor_takes_the_place_of_a_closed_stream() -> None:
    code = (
        "import os; from migrate.cli.console import open_standard_streams; open_standard_streams();"
        " print(os.open('/', 0) > 2, file=open('/dev/fd/9', 'w'))"
    )
    with subprocess.Popen(
        ["bash", "-c", f'exec 9>&1; exec {sys.executable} -c "{code}" <&- >&- 2>&-'],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    ) as done:
        assert done.communicate()[0] == b"True\n"


# --- migratectl ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyError("id"), 70, "a defect in this program, please report it: KeyError"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (errors.TargetUnreachable("no route"), 20, "no route"),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
            61,
            "Connection refused",
        ),
    ],
)
def test_however_recover_ends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    words: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(recover, "ask", fail)
    assert ctl.main(["recover", "0123456789ab", "--go"]) == code
    said = capsys.readouterr()
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(recover.Outcome.OK, 0), (recover.Outcome.REFUSED, 62), (recover.Outcome.FAILED, 62)],
)
@pytest.mark.parametrize("text", ["ok: not at all", "container?", "failed: it did not"])
def test_recover_goes_by_the_outcome_and_not_by_the_words(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: recover.Outcome,
    code: int,
    text: str,
) -> None:
    monkeypatch.setattr(recover, "ask", lambda *_: recover.Reply(outcome=outcome, text=text))
    assert ctl.main(["recover", "0123456789ab", "--abort"]) == code
    assert capsys.readouterr().out == f"migratectl: {outcome.value}: {text}\n"


@pytest.mark.parametrize(
    "text", ["", "x", "../0123456789ab", "0123456789AB", "0123456789ab0", "0123456789ab\n"]
)
@pytest.mark.parametrize("on", [[], ["--on", "beta"]])
def test_recover_takes_no_path_for_an_id(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    on: list[str],
) -> None:
    def asked(*_: object) -> None:
        pytest.fail("an agent was asked")

    monkeypatch.setattr(recover, "ask", asked)
    monkeypatch.setattr(ctl, "by_ssh", asked)
    assert ctl.main(["recover", text, "--go", *on]) == CODES[errors.BadRequest] == 2
    said = capsys.readouterr().err
    assert "is no migration's id" in said
    assert len(said.splitlines()) == 1


class Held:
    """A held container, of which there is nothing but a long description to tell."""

    holds_container = True

    def go(self) -> None: ...
    def abort(self) -> None: ...
    def describe(self) -> str:
        return "\U0001f600" * 2000


def answering(control: recover.ControlSocket) -> threading.Thread:
    """Have an agent answer one question."""
    thread = threading.Thread(target=lambda: control.answer(Held(), link_alive=True))
    thread.start()
    return thread


def test_status_waits_for_no_agent_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ctl, "RUN", tmp_path)
    monkeypatch.setattr(ctl, "abandoned", dict)
    monkeypatch.setattr(ctl, "STATUS_S", 0.2)
    hangs, answers = (tmp_path / f"{number * 12}{recover.SUFFIX}" for number in "01")
    with recover.ControlSocket(hangs), recover.ControlSocket(answers) as control:
        agent = answering(control)
        assert ctl.main(["status"]) == 0
        agent.join(20)
    said = capsys.readouterr()
    assert said.err == (
        f"migratectl: {'0' * 12}: its agent does not answer within 0.2 s;"
        " it may hold a container, so ask again and do not end it\n"
    )
    assert said.out.startswith(f"{'1' * 12}: \U0001f600")


def test_the_program_that_asks_on_another_host(tmp_path: Path) -> None:
    path = tmp_path / "control"
    _, _, *words = shlex.split(recover.ask_command(path, recover.STATUS))  # without `exec python3`
    argv = [sys.executable, *words]
    with recover.ControlSocket(path) as control:
        agent = answering(control)
        done = subprocess.run(argv, capture_output=True, timeout=30, check=True)
        agent.join(20)
    assert recover.reply_in(done.stdout).text == "\U0001f600" * recover.MAX_TEXT
    assert words[-2:] == [str(recover.ANSWER_S), str(recover.MAX_ANSWER)]
    failed = subprocess.run(argv, capture_output=True, timeout=30, check=False)
    assert (failed.stdout, failed.stderr) == (b"", b"No such file or directory\n")


def test_a_docker_that_cannot_be_prepared_has_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> list[str]:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(install, "install", fail)
    assert ctl.main(["docker-runtime"]) == CTL_CODES["NoDockerRuntime"]
    assert "stay as they are" in capsys.readouterr().err


def test_no_code_means_two_things() -> None:
    assert not set(CTL_CODES.values()) & set(CODES.values())


def test_a_text_that_the_terminal_cannot_show_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    monkeypatch.setattr(move, "move_container", ends_with(errors.NoSuchContainer("no '\u00fc'")))
    assert move.main(["\u00fc", "beta"]) == CODES[errors.NoSuchContainer]

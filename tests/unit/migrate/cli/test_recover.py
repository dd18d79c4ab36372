"""Tests of `migratectl recover`: from either host, it doubles and loses no container."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from checkpoint.files.made import MadeDirectory
from checkpoint.host import proc
from checkpoint.host.identity import PathRecord
from migrate import errors
from migrate.agent import asking, control
from migrate.agent.control import ABORT, ABORT_PROVED, GO, STATUS, Outcome
from migrate.cli import ctl, recover
from migrate.cli.exit_codes import CODES, CTL_CODES
from migrate.guardian import recovery
from migrate.journal import book
from migrate.journal.book import MigrationJournal, process_record
from migrate.journal.records import TARGET
from migrate.wire import protocol
from tests.unit.helpers.begun import ID, begun
from tests.unit.helpers.obedient import Child
from transport.destination import Destination
from transport.errors import HostKeyUnknown

OTHER = "ba9876543210"
NOT_RECOVERED = CTL_CODES["NotRecovered"]


class Elsewhere:
    """Another host that is asked by SSH: it gives `reply` to every word, and notes the words."""

    def __init__(self) -> None:
        self.reached: list[Destination] = []
        self.words: list[str] = []
        self.reply = told(Outcome.OK)

    @contextlib.contextmanager
    def by_ssh(self, destination: Destination) -> Iterator[Any]:
        self.reached.append(destination)
        yield None

    def answer(self, _: Any, __: str, word: str, *___: Any) -> protocol.Recovered:
        self.words.append(word)
        return self.reply


def told(outcome: Outcome, state: str | None = None, **source: Any) -> protocol.Recovered:
    """Return what the other host tells."""
    fields = {"life": None, "goes_on": False, **source}
    return protocol.Recovered(state=state, outcome=outcome.value, text="its words", **fields)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Elsewhere:
    found = Elsewhere()
    monkeypatch.setattr(recover, "by_ssh", found.by_ssh)
    monkeypatch.setattr(asking, "answer", found.answer)
    monkeypatch.setattr(control, "RUN", tmp_path)
    monkeypatch.setattr(recovery, "PATIENCE_S", 0.0)
    monkeypatch.setattr(recover, "sweep", lambda _: None)
    return found


def source_of(child: Child, state: str, migration_id: str = ID) -> MigrationJournal:
    """Return the journal of a coordinator here, whose container has `child` as its init."""
    init = process_record(child.pid)
    journal = MigrationJournal(begun(boot_id=proc.boot_id(), init=init, migration_id=migration_id))
    journal.entered(state)
    return journal


def outcome() -> str | None:
    [found] = [each.account for each in book.listed()]
    return found.ended.outcome if found.ended is not None else None


# --- on the source -------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--go"], ["--go", "--source-is-dead"]])
def test_where_the_container_lives_it_never_runs_twice(
    elsewhere: Elsewhere, child: Child, words: Sequence[str]
) -> None:
    source_of(child, "held").close()
    code = ctl.main(["recover", ID, *words])
    assert (code == 0) is not bool(words)
    assert elsewhere.words == ([] if words else [ABORT_PROVED])
    assert outcome() == (None if words else "rolled back")


@pytest.mark.parametrize("words", [[], ["--go"], ["--abort"]])
def test_the_only_copy_is_run_and_never_dropped(
    elsewhere: Elsewhere, child: Child, words: Sequence[str]
) -> None:
    source_of(child, "killed").close()
    child.end()
    code = ctl.main(["recover", ID, *words])
    assert code == (NOT_RECOVERED if "--abort" in words else 0)
    assert elsewhere.words == ([] if "--abort" in words else [GO])
    assert outcome() == (None if "--abort" in words else "done")


@pytest.mark.parametrize(("words", "word"), [(["--go"], GO), (["--abort"], ABORT_PROVED)])
def test_what_has_died_here_by_itself_is_the_operators_to_decide(
    elsewhere: Elsewhere, child: Child, words: Sequence[str], word: str
) -> None:
    """Its host has failed, say. What the target holds is from before that."""
    source_of(child, "held").close()
    child.end()
    assert ctl.main(["recover", ID, *words]) == 0
    assert elsewhere.words == [word]


def test_all_that_were_cut_off_on_their_source_are_recovered(
    elsewhere: Elsewhere, child: Child, capsys: pytest.CaptureFixture[str]
) -> None:
    source_of(child, "held").close()
    assert ctl.main(["recover"]) == 0
    assert elsewhere.reached == [Destination.parse("root@beta:2222")]
    assert f"the move {ID} of container 'web' is rolled back" in capsys.readouterr().out
    assert ctl.main(["recover"]) == 0, "there is nothing left"
    assert len(elsewhere.words) == 1


def test_what_was_made_here_is_undone(elsewhere: Elsewhere, child: Child, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with source_of(child, "held") as journal:
        journal.made(MadeDirectory(path=PathRecord.of(tmp_path / "made"), whole=True))
    assert ctl.main(["recover", ID, "--on", "beta"]) == 0
    assert elsewhere.reached == [Destination(name="beta")]
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("reply", [Outcome.NOBODY, Outcome.FAILED, Outcome.REFUSED])
def test_a_target_that_does_not_have_it_run_leaves_the_end_open(
    elsewhere: Elsewhere, child: Child, reply: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    source_of(child, "killed").close()
    child.end()
    elsewhere.reply = told(reply)
    assert ctl.main(["recover", ID]) == NOT_RECOVERED
    assert "cannot be ended yet" in capsys.readouterr().out
    assert outcome() is None


def test_one_that_has_ended_is_left_alone(
    elsewhere: Elsewhere, child: Child, capsys: pytest.CaptureFixture[str]
) -> None:
    with source_of(child, "rolled back") as journal:
        journal.end("rolled back")
    assert ctl.main(["recover", ID]) == 0
    assert elsewhere.words == []
    assert capsys.readouterr().out == f"migratectl: the move {ID} has ended: rolled back\n"


@pytest.mark.parametrize("words", [[], ["--go"], ["--abort"]])
def test_a_migration_that_goes_on_is_left_to_its_programs(
    elsewhere: Elsewhere,
    child: Child,
    words: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(recover, "GUARDIAN_S", 0.0)
    with source_of(child, "killed"):
        child.end()
        assert ctl.main(["recover", ID, *words]) == NOT_RECOVERED
    told = "the migration goes on" if words else "guardian, a process here, is ending it"
    assert told in capsys.readouterr().err
    assert elsewhere.words == []


def test_a_guardian_that_is_about_to_end_it_is_waited_for(
    elsewhere: Elsewhere,
    child: Child,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(recover, "LOOK_AGAIN_S", 0.01)
    journal = source_of(child, "held")  # whose coordinator is gone

    def end() -> None:
        with journal:
            time.sleep(0.05)
            journal.end("rolled back")

    guardian = threading.Thread(target=end)
    guardian.start()
    assert ctl.main(["recover", ID]) == 0
    guardian.join()
    assert elsewhere.words == []
    assert capsys.readouterr().out == f"migratectl: the move {ID} has ended: rolled back\n"


def test_one_that_cannot_be_ended_keeps_no_other_from_its_end(
    elsewhere: Elsewhere, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    source_of(child, "held").close()
    source_of(child, "held", OTHER).close()
    replies = [told(Outcome.FAILED), told(Outcome.OK)]
    monkeypatch.setattr(asking, "answer", lambda *_: replies.pop(0))
    assert ctl.main(["recover"]) == NOT_RECOVERED
    assert [each.account.ended is None for each in book.listed()] == [True, False]


def test_a_damaged_journal_decides_nothing(
    elsewhere: Elsewhere, child: Child, capsys: pytest.CaptureFixture[str]
) -> None:
    source_of(child, "killed").close()
    [found] = book.listed()
    found.place.ram.write_bytes(found.place.ram.read_bytes().replace(b"killed", b"kilned"))
    assert ctl.main(["recover", ID]) == NOT_RECOVERED
    assert ctl.main(["recover"]) == 0
    assert elsewhere.words == []
    said = capsys.readouterr().err
    assert "the journal of that move on this host is damaged" in said
    assert "no move was cut off on this host" in said


# --- on the target -------------------------------------------------------------------------------


@pytest.fixture
def held(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Have a container be held here; the words that its agent is told."""
    words: list[str] = []

    def pass_on(request: protocol.Recover, _: Any) -> protocol.Recovered:
        words.append(request.word)
        return told(Outcome.OK)

    monkeypatch.setattr(recover, "pass_on", pass_on)
    with MigrationJournal(begun(TARGET, boot_id=proc.boot_id())) as journal:
        journal.entered("held")
        yield words


@pytest.mark.parametrize(
    ("state", "life", "goes_on", "word"),
    [
        ("held", "lives", False, ABORT_PROVED),
        ("killed", "dead", False, GO),
        ("held", "dead", False, ABORT_PROVED),
        ("killed", "dead", True, None),
        ("killed", "anew", False, None),
    ],
)
def test_the_source_decides(
    elsewhere: Elsewhere, held: list[str], state: str, life: str, goes_on: bool, word: str | None
) -> None:
    elsewhere.reply = told(Outcome.NOBODY, state, life=life, goes_on=goes_on)
    code = ctl.main(["recover", ID, "--on", "alpha"])
    assert code == (NOT_RECOVERED if word is None else 0)
    assert held == ([] if word is None else [word])
    assert elsewhere.words == [STATUS]


def test_a_host_that_is_not_the_source_decides_nothing(
    elsewhere: Elsewhere, held: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctl.main(["recover", ID, "--on", "gamma"]) == CODES[errors.BadRequest]
    assert held == []
    assert "name the move's source" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "word"),
    [(["--go"], None), (["--go", "--source-is-dead"], GO), (["--abort"], ABORT)],
)
def test_the_operator_must_know_that_the_source_is_dead(
    held: list[str], words: Sequence[str], word: str | None
) -> None:
    assert ctl.main(["recover", ID, *words]) == (NOT_RECOVERED if word is None else 0)
    assert held == ([] if word is None else [word])


def test_without_the_source_or_the_operators_word_a_hold_goes_on(
    held: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The line has the command that ends it, on both hosts."""
    assert ctl.main(["recover", ID]) == NOT_RECOVERED
    assert held == [STATUS]
    said = capsys.readouterr().err
    assert said.startswith("migratectl: its words; nothing was changed; ")
    assert f"'migratectl recover {ID}' on alpha ends the move" in said
    assert "'--on alpha'" in said


def test_without_an_id_a_hold_is_named(held: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["recover"]) == NOT_RECOVERED
    assert held == []
    said = capsys.readouterr().err
    assert f"the move {ID} of container 'web' from alpha to this host goes on" in said
    assert f"'migratectl recover {ID}' on alpha ends the move" in said


def test_a_word_about_the_source_is_for_go_alone(elsewhere: Elsewhere) -> None:
    assert ctl.main(["recover", ID, "--abort", "--source-is-dead"]) == CODES[errors.BadRequest]


# --- on another host ----------------------------------------------------------------------------


def test_any_user_may_ask_another_host(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ctl.main(["recover", ID, "--on", "root@beta"]) == 0
    assert elsewhere.reached == [Destination(name="beta", user="root")]
    assert capsys.readouterr().out == "migratectl: ok: its words\n"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Outcome.OK, 0),
        (Outcome.REFUSED, NOT_RECOVERED),
        (Outcome.FAILED, NOT_RECOVERED),
        (Outcome.NOBODY, CTL_CODES["NothingHeld"]),
    ],
)
def test_recover_goes_by_the_outcome(elsewhere: Elsewhere, reply: Outcome, code: int) -> None:
    elsewhere.reply = told(reply)
    assert ctl.main(["recover", ID, "--on", "beta", "--abort"]) == code
    assert elsewhere.words == [ABORT]


def test_where_nothing_shows_the_death_it_must_be_said(
    elsewhere: Elsewhere, capsys: pytest.CaptureFixture[str]
) -> None:
    for on in ([], ["--on", "beta"]):
        assert ctl.main(["recover", ID, *on, "--go"]) == NOT_RECOVERED
        said = capsys.readouterr().err
        assert "'--source-is-dead'" in said
        assert said.endswith("; nothing was changed\n")
    assert elsewhere.words == []


def test_a_migration_that_is_not_known_is_told(
    elsewhere: Elsewhere, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctl.main(["recover", ID]) == CTL_CODES["NothingHeld"]
    said = capsys.readouterr().err
    assert f"holds a container for migration {ID}; nothing was changed; " in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyError("id"), 70, "a defect in this program, please report it: KeyError"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (HostKeyUnknown("no key of beta"), CODES[errors.UnknownHostKey], "no key of beta"),
        (OSError(errno.EIO, "Input/output error"), 70, "please report it: OSError"),
    ],
)
def test_each_end_has_its_code_and_one_line(
    elsewhere: Elsewhere,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    words: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(asking, "answer", fail)
    assert ctl.main(["recover", ID, "--on", "beta", "--abort"]) == code
    said = capsys.readouterr()
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


def test_an_option_in_place_of_a_host_is_a_bad_request(
    elsewhere: Elsewhere, child: Child, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["recover", ID, "--on", "-oProxyCommand=x"]
    assert ctl.main(words) == CODES[errors.BadRequest]
    assert "migratectl recover --help" in capsys.readouterr().err
    source_of(child, "held").close()
    assert ctl.main(words) == CODES[errors.BadRequest]
    assert "migratectl recover --help" in capsys.readouterr().err
    assert elsewhere.reached == []


def test_a_word_or_a_host_needs_an_id(elsewhere: Elsewhere) -> None:
    for words in (["--go"], ["--abort"], ["--on", "beta"]):
        assert ctl.main(["recover", *words]) == CODES[errors.BadRequest]
    assert elsewhere.words == []

"""What users and their programs are told: errors, exit codes, reports, events."""

from __future__ import annotations

import inspect
import io
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from checkpoint import errors as checkpoint_errors
from migrate import errors
from migrate import observer as events
from migrate.cli import exit_codes, progress
from migrate.decisions.state import State
from migrate.errors import MigrateError, Side
from migrate.report import Instant, Interval, Report, summary
from transport import errors as transport_errors

DOCS = Path(__file__).parents[2] / "docs"
SAMPLES: dict[str, Any] = {
    "where": Side.TARGET,
    "engines": ["<engines>"],
    "pid": 7,
    "fd": 3,
    "signal_number": signal.SIGTERM,
    "error": KeyError("no luck"),
    "needed_bytes": 3 << 30,
    "available_bytes": 1 << 30,
}


def all_classes(root: type[MigrateError] = MigrateError) -> list[type[MigrateError]]:
    return [root, *(found for kind in root.__subclasses__() for found in all_classes(kind))]


CLASSES = [kind for kind in all_classes() if kind is not MigrateError]


def example(kind: type[MigrateError]) -> MigrateError:
    """An error whose every argument is recognisable."""
    parameters = inspect.signature(kind).parameters.values()
    make: Callable[..., MigrateError] = kind
    given = {p: SAMPLES.get(p.name, f"<{p.name}>") for p in parameters if p.default is p.empty}
    by_name = {p.name: value for p, value in given.items() if p.kind is p.KEYWORD_ONLY}
    return make(*[each for p, each in given.items() if p.kind is not p.KEYWORD_ONLY], **by_name)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_says_what_where_and_what_next(kind: type[MigrateError]) -> None:
    error = example(kind)
    assert str(error) == f"{error.what}; {error.where}; {error.advice}"
    for part in (error.what, error.where, error.advice):
        assert len(part) > 3
        assert part == part.strip()
        assert "None" not in part
    assert re.search(r"nothing was changed|container|source", error.where)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_argument_is_told(kind: type[MigrateError]) -> None:
    text = str(example(kind))
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.default is parameter.empty and name not in SAMPLES and name != "migration_id":
            assert f"<{name}>" in text


@pytest.mark.parametrize(
    ("root", "words"),
    [
        (errors.Refused, "nothing was changed"),
        (errors.RolledBack, "runs on the source"),
        (errors.Undecided, "held on"),
        (errors.LeftBehind, "runs on <host>"),
    ],
)
def test_where_the_container_is(root: type[MigrateError], words: str) -> None:
    for kind in all_classes(root):
        assert words in example(kind).where


def test_every_error_has_a_code_of_its_own() -> None:
    codes = {kind: exit_codes.exit_code(example(kind)) for kind in CLASSES}
    assert len(set(codes.values())) == len(codes), codes
    assert 0 not in codes.values()
    assert 1 not in codes.values(), "an uncaught exception's"
    assert all(code < 126 or kind is errors.Interrupted for kind, code in codes.items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_as_shells_have_it(number: signal.Signals) -> None:
    assert exit_codes.exit_code(errors.Interrupted(number)) == 128 + number


def test_a_class_without_a_code_has_its_parents() -> None:
    class New(errors.NameTaken):
        pass

    assert exit_codes.exit_code(New("c", "h", "r")) == exit_codes.CODES[errors.NameTaken]


def test_the_codes_are_documented() -> None:
    rows = dict(
        re.findall(r"^\| (\d+) \| (\w+)", (DOCS / "exit-codes.md").read_text(), re.MULTILINE)
    )
    expected = {str(code): kind.__name__ for kind, code in exit_codes.CODES.items()}
    expected.update({str(code): name for name, code in exit_codes.CTL_CODES.items()})
    assert {code: name for code, name in rows.items() if code != "0"} == expected


def test_the_codes_are_frozen() -> None:
    """Schedulers act on them: a number never changes its meaning."""
    assert {kind.__name__: code for kind, code in exit_codes.CODES.items()} == {
        "BadRequest": 2,
        "NoSuchContainer": 10,
        "NotRunning": 11,
        "OpenFileOutside": 12,
        "NotMovableError": 13,
        "CannotPreCopy": 14,
        "SeveralContainers": 15,
        "AlreadyMoving": 16,
        "TargetUnreachable": 20,
        "AuthenticationFailed": 21,
        "UnknownHostKey": 22,
        "ChangedHostKey": 23,
        "RefusedHostKey": 24,
        "NotRoot": 30,
        "MissingOnHost": 31,
        "CriuTooOld": 32,
        "CriuWireMismatch": 33,
        "MachineMismatch": 34,
        "NameTaken": 40,
        "PathTaken": 41,
        "NotEnoughMemory": 42,
        "AddressTaken": 43,
        "RefusedByEngine": 44,
        "Refused": 49,
        "RolledBack": 50,
        "LeftBehind": 51,
        "NotConverging": 52,
        "CannotTrack": 53,
        "ContainerEnded": 54,
        "MemoryDiffers": 55,
        "Undecided": 60,
        "ResumeFailed": 63,
        "Defect": 70,
    }


# --- the report ------------------------------------------------------------------------------------------------

#: Frozen: a change of these is a change of the schema.
KEYS_1 = {
    "fill",
    "proof",
    "schema",
    "migration_id",
    "container",
    "source",
    "target",
    "mode",
    "outcome",
    "error_kind",
    "cause_kind",
    "log_directory",
    "error",
    "started_unix_ns",
    "total_us",
    "downtime_us",
    "clock_error_us",
    "predicted_downtime_us",
    "memory_bytes",
    "rounds",
    "round_bytes",
    "pages",
    "pages_zero",
    "page_bytes",
    "pages_skipped_parent",
    "bytes_sent",
    "frozen_bytes_sent",
    "versions",
    "phases",
    "freeze",
    "notes",
}


def full_report() -> Report:
    report = Report.begin("web", "beta")
    report.add_bytes("pages", 1 << 20)
    report.add_bytes("pages", 1 << 20)
    report.add_bytes("images", 7)
    report.times.phases.append(Interval(name="dump", start_us=1, length_us=2500))
    report.times.freeze.append(Instant(name="held", host="target", at_us=3))
    report.times.downtime_us, report.times.clock_error_us, report.outcome = 129_000, 150, "done"
    report.sent.memory_bytes, report.sent.frozen_bytes_sent = 128 << 20, 1 << 20
    return report


def test_the_keys_of_the_report_are_frozen() -> None:
    printed = json.loads(json.dumps(full_report().to_json()))
    assert printed["schema"] == 2
    assert set(printed) == KEYS_1
    assert printed["bytes_sent"] == {"pages": 2 << 20, "images": 7}
    assert printed["phases"] == [{"name": "dump", "start_us": 1, "length_us": 2500}]
    assert printed["freeze"] == [{"name": "held", "host": "target", "at_us": 3}]


def test_the_keys_of_the_report_are_documented() -> None:
    table = re.findall(r"^\| (.+?) \|", (DOCS / "report.md").read_text(), re.MULTILINE)
    assert {name for row in table for name in re.findall(r"`(\w+)`", row)} == KEYS_1


def test_a_report_of_nothing_says_so() -> None:
    printed = Report.begin("web", "beta").to_json()
    assert (printed["outcome"], printed["downtime_us"], printed["error"]) == ("refused", None, None)
    assert re.fullmatch(r"[0-9a-f]{12}", printed["migration_id"])
    assert Report.begin("web", "beta").migration_id != printed["migration_id"]


def test_the_summary() -> None:
    text = "\n".join(summary(full_report()))
    for words in (
        "web",
        "beta",
        "done",
        "129 ms",
        "0.1 ms",
        "128 MiB",
        "2.0 MiB sent",
        "1.0 MiB of it",
        "dump",
    ):
        assert words in text
    assert "downtime" not in "\n".join(summary(Report.begin("web", "beta")))


# --- events ----------------------------------------------------------------------------------------------------

CALLS: dict[str, tuple[Any, ...]] = {
    "phase": ("prepare",),
    "state": (State.FROZEN,),
    "sent": (1 << 20, 2 << 20),
    "note": ("a note",),
}


def test_every_event_is_tried_here() -> None:
    assert set(CALLS) == {name for name in vars(events.Observer) if not name.startswith("_")}


class Failing:
    """An observer of which nothing works."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        def fail(*_: object) -> None:
            raise self.failure

        return fail

    def __init__(self, failure: Exception) -> None:
        self.failure = failure


def test_an_observer_that_fails_ends_no_move() -> None:
    for name, arguments in CALLS.items():
        getattr(events.Unfailing(Failing(ValueError("closed"))), name)(*arguments)


def test_an_interruption_while_the_observer_is_told_is_not_lost() -> None:
    with pytest.raises(errors.Interrupted):
        events.Unfailing(Failing(errors.Interrupted(signal.SIGINT))).note("a note")


def test_an_observer_is_told_everything() -> None:
    out = io.StringIO()
    observer = events.Unfailing(progress.Lines(out))
    for name, arguments in CALLS.items():
        getattr(observer, name)(*arguments)
    assert out.getvalue().splitlines() == ["migrate: frozen", "migrate: a note"]


def test_plain_lines() -> None:
    out = io.StringIO()
    with progress.observer_for(out) as observer:
        for name, arguments in CALLS.items():
            getattr(observer, name)(*arguments)
    assert out.getvalue().splitlines() == ["migrate: frozen", "migrate: a note"]


def test_a_live_line() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with progress.observer_for(out) as observer:
        for name, arguments in CALLS.items():
            getattr(observer, name)(*arguments)
        observer.note("[bold]as it is[/bold]")
    assert "a note" in out.getvalue()
    assert "[bold]as it is[/bold]" in out.getvalue()


def drawn(text: str) -> dict[str, str]:
    """{class: its base} of a tree drawn as `tree` does it."""
    found: dict[str, str] = {}
    bases: list[list[str]] = []
    for line in text.splitlines():
        branch = re.match(r"((?:[│ ]   )*)([├└]── )?(\w+(?:, \w+)*)(?:  |$)", line)
        if branch is None or (branch[2] is None and not line[:1].isupper()):
            continue
        depth, names = (len(branch[1]) // 4 + 1 if branch[2] else 0), branch[3].split(", ")
        bases[depth:] = [names]
        found.update(dict.fromkeys(names, bases[depth - 1][-1] if depth else ""))
    return found


@pytest.mark.parametrize(
    ("module", "root"),
    [
        (errors, errors.MigrateError),
        (checkpoint_errors, checkpoint_errors.CheckpointError),
        (transport_errors, transport_errors.TransportError),
    ],
)
def test_errors_are_a_tree_that_is_drawn(module: ModuleType, root: type[Exception]) -> None:
    """The tree at the top of errors.py is the one there is."""
    kinds = [root]
    for kind in kinds:
        kinds += [found for found in kind.__subclasses__() if found.__module__ == module.__name__]
    tree = drawn(module.__doc__ or "")
    assert {kind.__name__: kind.__base__.__name__ for kind in kinds[1:] if kind.__base__} == {
        name: base for name, base in tree.items() if base
    }
    assert tree[root.__name__] == ""


class Closed(io.StringIO):
    """Nobody reads it any more."""

    def __init__(self, *, tty: bool) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("tty", [False, True])
def test_a_reader_that_left_ends_no_move(tty: bool) -> None:
    with progress.observer_for(Closed(tty=tty)) as observer:
        observer.state(State.KILLED)
        observer.note("a note")
        observer.sent(1, 2)

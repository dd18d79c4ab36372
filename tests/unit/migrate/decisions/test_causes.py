"""Tests of migrate/decisions/causes.py: every error of the three packages is told by the table."""

from __future__ import annotations

import ast
import errno
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import checkpoint
import migrate
import transport
from checkpoint import errors as checkpoint_errors
from checkpoint.criu.known_errors import KNOWN
from migrate import errors
from migrate.cli.exit_codes import CODES, exit_code
from migrate.decisions import causes
from migrate.decisions.state import InvalidTransition
from migrate.wire import failures
from migrate.wire.message import ProtocolError
from transport import errors as transport_errors

#: Exceptions that are caught in the module that raises them, or in the one that called it.
INTERNAL = {
    "checkpoint.memory.tracking.inject.InjectError",
    "checkpoint.memory.tracking.inject.NotHere",
    "checkpoint.memory.pager.uffd_copy.Ended",
    "checkpoint.memory.pager.uffd_copy.NotNow",
}
HOST = "beta"


def modules() -> Iterator[str]:
    """Yield the names of the modules that define classes.

    Other modules may be programs, which would run if they were imported.
    """
    for package in (checkpoint, migrate, transport):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            if any(isinstance(node, ast.ClassDef) for node in ast.parse(path.read_text()).body):
                yield ".".join(
                    path.relative_to(Path(package.__path__[0]).parent).with_suffix("").parts
                )


def exceptions() -> dict[str, type[BaseException]]:
    """Return every exception class that one of the packages defines, by its full name."""
    found = {}
    for name in modules():
        for kind in vars(importlib.import_module(name)).values():
            if (
                inspect.isclass(kind)
                and issubclass(kind, BaseException)
                and kind.__module__ == name
            ):
                found[f"{name}.{kind.__name__}"] = kind
    return found


FOREIGN = {
    name: kind
    for name, kind in exceptions().items()
    if not issubclass(kind, errors.MigrateError) and name not in INTERNAL
}


def test_the_internal_exceptions_exist() -> None:
    assert exceptions().keys() >= INTERNAL


@pytest.mark.parametrize("name", FOREIGN)
def test_every_exception_is_in_the_table(name: str) -> None:
    kind = FOREIGN[name]
    assert kind is failures.AgentFailed or kind in causes.TABLE


def test_no_two_exceptions_have_the_same_name() -> None:
    """A name is all that comes from the target."""
    names = [kind.__name__ for kind in FOREIGN.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (checkpoint_errors.NotMovable("it has a terminal"), errors.NotMovableError),
        (checkpoint_errors.ContainerNotFound("podman knows no 'web'"), errors.NoSuchContainer),
        (checkpoint_errors.ContainerNotRunning("'web' is paused"), errors.NotRunning),
        (checkpoint_errors.EngineRefused("docker: too old"), errors.Refused),
        (failures.AgentFailed("EngineRefused", "docker: too old", ()), errors.RefusedByEngine),
        (failures.AgentFailed("ContainerNotFound", "no such container", ()), errors.Refused),
        (transport_errors.Unreachable("no route"), errors.TargetUnreachable),
        (transport_errors.AuthenticationRefused("no key"), errors.AuthenticationFailed),
        (transport_errors.HostKeyUnknown("no key of beta"), errors.UnknownHostKey),
        (transport_errors.HostKeyChanged("another key"), errors.ChangedHostKey),
        (transport_errors.HostKeyRefused("it is revoked"), errors.RefusedHostKey),
        (
            failures.AgentGone("the peer closed the stream", "python3: not found", 127),
            errors.TargetUnreachable,
        ),
        (KeyError("status"), errors.Refused),
        (OSError(errno.EACCES, "Permission denied"), errors.Refused),
    ],
)
def test_an_error_before_anything_was_changed_is_told_as_a_refusal(
    error: Exception, told: type[errors.Refused]
) -> None:
    refused = causes.refused(error, HOST)
    assert type(refused) is told
    assert refused.where == "nothing was changed"
    assert refused.cause_kind == causes.kind_of(error)
    assert str(error.args[-1] if isinstance(error, OSError) else error).split(":")[0] in str(
        refused
    )


@pytest.mark.parametrize("kind", [kind for kind in causes.TABLE if kind is not BaseException])
def test_every_kind_is_told_of_either_host_as_a_refusal(kind: type[BaseException]) -> None:
    refused = causes.refused(failures.AgentFailed(kind.__name__, "the reason", ()), HOST)
    assert "the reason" in refused.what
    assert exit_code(refused) in CODES.values()


def test_an_error_that_is_a_refusal_already_stays_what_it_is() -> None:
    error = errors.NameTaken("web", HOST, "runc")
    assert causes.refused(error, HOST) is error
    assert error.cause_kind == "NameTaken"


def test_a_target_that_cannot_write_what_comes_is_told_as_the_one_that_failed() -> None:
    error = checkpoint_errors.ReceiverFailed(
        ["rsync"], 11, "rsync: [receiver] write failed: No space left on device"
    )
    told = causes.rolled_back(error, [], "it runs")
    assert "the target failed" in told.what
    assert "No space left" in told.what
    assert told.cause_kind == "NoSpace"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "NoSpace"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "NoMemory"),
        (MemoryError(), "MemoryError"),
        (
            checkpoint_errors.CommandFailed(
                ["rsync"], 11, "write failed: No space left on device (28)\nrsync"
            ),
            "NoSpace",
        ),
        (
            checkpoint_errors.CriuFailed(
                "restore", ["Error (x.c:1): Can't write: No space left on device"]
            ),
            "NoSpace",
        ),
        (
            checkpoint_errors.EngineRefused("Error: writing blob: no space left on device"),
            "NoSpace",
        ),
        (checkpoint_errors.CriuFailed("restore", ["Error (x.c:1): no luck"]), "CriuFailed"),
        (checkpoint_errors.CommandFailed(["rsync"], 1, "no luck"), "CommandFailed"),
        (failures.AgentFailed("ImageError", "a batch is lost", ()), "ImageError"),
        (errors.NotEnoughMemory(HOST, 2, 1), "NotEnoughMemory"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "FileNotFoundError"),
    ],
)
def test_the_kind_of_an_error_is_that_of_its_cause(error: Exception, kind: str) -> None:
    assert causes.kind_of(error) == kind
    assert causes.rolled_back(error, [], "the container runs on the source").cause_kind == kind


@pytest.mark.parametrize(
    ("error", "defect"),
    [
        (KeyError("x"), True),
        (AssertionError(), True),
        (InvalidTransition("from here to there"), True),
        (ProtocolError("no such field"), True),
        (failures.AgentFailed("TypeError", "'NoneType' object is not subscriptable", ()), True),
        (failures.AgentFailed("NeverHeardOf", "what?", ()), True),
        (failures.AgentFailed("PermissionError", "Permission denied", ()), False),
        (failures.AgentFailed("NoSpace", "No space left on device", ()), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (checkpoint_errors.ImageError("truncated"), False),
    ],
)
def test_what_is_in_no_table_is_a_defect_and_is_to_be_reported(
    error: Exception, defect: bool
) -> None:
    told = causes.rolled_back(error, [], "the container runs on the source")
    assert told.defect is defect
    assert ("please report it" in told.advice) is (
        defect or isinstance(error, checkpoint_errors.ImageError)
    )
    if defect and not isinstance(error, failures.AgentFailed):
        assert type(error).__name__ in told.what


def test_an_answer_that_is_no_message_is_told_of_the_host_that_gave_it() -> None:
    told = causes.rolled_back(
        ProtocolError("Ping answered by 'x'"), [], "the container runs on the source"
    )
    assert "the target failed: ProtocolError: Ping answered by 'x'" in told.what
    assert "before you trust it" in told.advice
    assert "on HOST" in causes.refused(ProtocolError("Ping answered by 'x'"), "HOST").what


def test_a_long_error_is_told_by_its_beginning_and_its_end() -> None:
    error = OSError(errno.ENAMETOOLONG, "File name too long", "/".join(["x" * 250] * 30))
    text = causes.failure(error)
    assert text.startswith("the source failed: [Errno 36] File name too long: 'xxx")
    assert text.endswith("xxx'")
    assert len(text) < causes.MOST_TEXT + 50


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (checkpoint_errors.ImageError("truncated"), "the source failed: truncated"),
        (failures.AgentFailed("ImageError", "truncated", ()), "the target failed: truncated"),
        (failures.AgentGone("the stream ended", "", None), "the link failed: the stream ended"),
        (transport_errors.IncompleteFrame("it broke"), "the link failed: it broke"),
    ],
)
def test_an_error_says_which_host_failed(error: Exception, words: str) -> None:
    assert causes.rolled_back(error, [], "somewhere").what == words


def test_what_was_left_comes_before_the_advice() -> None:
    told = causes.rolled_back(
        checkpoint_errors.CommandFailed(["x"], 1, "no"), ["the quota is still set"], "it runs"
    )
    assert told.where == "it runs"
    assert told.advice.startswith("the quota is still set; ")


def test_an_interruption_says_what_was_left_and_where_the_container_was_seen() -> None:
    told = causes.rolled_back(
        errors.Interrupted(2), ["the quota is still set"], "its process is stopped"
    )
    assert isinstance(told, errors.Interrupted)
    assert str(told).startswith("interrupted; its process is stopped; the quota is still set; ")


CRIU_LINES = {
    "Error (criu/proc_parse.c:502): Unknown shit 600 (anon_inode:[io_uring])": (
        "io_uring, which CRIU cannot dump"
    ),
    "Error (criu/sk-inet.c:185): In-flight connection (l) for 1f": (
        "a TCP connection was just being accepted"
    ),
    "Error (criu/sk-unix.c:874): External socket is used. Consider using --ext-unix-sk option.": (
        "a unix socket"
    ),
    "Error (criu/files-reg.c:1031): Can't dump ghost file /srv/x of 4000000 size, increase limit": (
        "/srv/x of 4000000"
    ),
    "Error (criu/files-reg.c:1790): Can't lookup mount=9 for fd=-3 path=/lib/x.so": (
        "descriptor -3 of a process"
    ),
    "Error (criu/files-reg.c:2175): File usr/bin/redis has bad size 10 (expect 9)": (
        "usr/bin/redis has 10 bytes on the"
    ),
    "Error (criu/namespaces.c:460): Can't dump nested uts namespace for 77": (
        "process 77 has a uts namespace"
    ),
    "Error (criu/mount.c:1092): Mount 5 /data (master_id: 1 shared_id: 0) "
    "has unreachable sharing. Try --x.": "/data",
    "Error (criu/fsnotify.c:284): \tCan't dump that handle": "watches a file by inotify",
}


@pytest.mark.parametrize("line", CRIU_LINES)
def test_a_known_line_of_crius_is_told_in_words_with_a_cure(line: str) -> None:
    """The words are the same whether CRIU ran on the source or on the target."""
    error = checkpoint_errors.CriuFailed("dump", [line])
    assert CRIU_LINES[line] in str(error)
    cures = {cure for _, _, cure in KNOWN}
    assert causes.cause_of(error).advice in cures
    assert causes.cause_of(failures.AgentFailed("CriuFailed", str(error), [line])).advice in cures

"""`migratectl`: look after moves that ended in the middle, and make a host ready for them."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path

from checkpoint import schema
from checkpoint.engines.docker import install
from checkpoint.errors import DataInvalid
from checkpoint.host.journal import Journal
from migrate import VERSION, logs
from migrate.agent import asking, control
from migrate.cli import status
from migrate.cli.console import Parser, open_standard_streams, put, say
from migrate.cli.exit_codes import CODES, CTL_CODES, exit_code
from migrate.decisions import causes, recovery
from migrate.decisions.state import State
from migrate.errors import AgentGone, BadRequest, Defect, MigrateError, NotRoot
from migrate.journal import book, cut_off
from migrate.journal.book import Listed
from migrate.journal.records import SOURCE, Ended, encode
from migrate.reach import by_ssh
from migrate.wire.values import MigrationId
from transport.destination import Destination
from transport.errors import TransportError

#: What the source's journal says of the end of a migration that an operator has ended.
RECOVERED = "ended by 'migratectl recover'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `migratectl` and return its exit code, one of docs/exit-codes.md whatever happens."""
    open_standard_streams()
    try:
        arguments = parser().parse_args(argv)
        return int(arguments.run(arguments))
    except MigrateError as error:
        say(f"migratectl: {error}")
        return exit_code(error)
    except KeyboardInterrupt:
        say("migratectl: interrupted; ask again: a request that was sent may still be obeyed")
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001  (the last resort)
        kept: Path | None = None
        with contextlib.suppress(OSError):
            kept = logs.keep(secrets.token_hex(6), "migratectl", [logs.traceback_of(error)])
        what = f"{type(error).__name__}: {error}"
        say(
            "migratectl: a defect in this program, please report it:"
            f" {what}; logs: {kept or 'none'}"
        )
        return CODES[Defect]


def _check_root() -> None:
    """Raise NotRoot unless root runs this command, which acts on this host.

    A request to another host (`--on`) is not checked: ssh(1) says as which user it is made.
    """
    if os.geteuid() != 0:
        raise NotRoot(None, platform.node())


def _status(arguments: argparse.Namespace) -> int:
    _check_root()
    status.show(as_json=arguments.json)
    return 0


def _migration_id(text: str) -> str:
    """Return the id of a migration. Raises ArgumentTypeError if the text is none."""
    try:
        return str(schema.read(MigrationId, text))
    except DataInvalid:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no migration's id, which has 12 digits from 0 to f"
        ) from None


def _recover(arguments: argparse.Namespace) -> int:
    found = _journal_of_the_source(arguments.id)
    seen = None if found is None else _seen(found)
    word, objection = control.STATUS, None
    if arguments.go:
        # The source's death is proved by its journal and its processes, or is the operator's word.
        word = control.GO
        objection = recovery.objection_to_go(seen, said_dead=arguments.source_is_dead)
    elif arguments.abort:
        word, objection = control.ABORT, recovery.objection_to_abort(seen)
    if objection is not None:
        say(f"migratectl: {objection}; nothing was changed")
        return CTL_CODES["NotRecovered"]
    try:
        if arguments.on is None:
            _check_root()
            answer = control.ask(control.control_path(arguments.id), word)
        else:
            answer = ask_on(arguments.on, arguments.id, word)
    except OSError as error:
        advice = (
            "look for the container with the engine there"
            if arguments.on
            else "name the move's target by '--on', or run this there"
        )
        say(
            f"migratectl: no agent on {arguments.on or platform.node()} holds a container for"
            f" migration {arguments.id} ({error.strerror or error}); nothing was changed; {advice}"
        )
        return CTL_CODES["NothingHeld"]
    put(f"migratectl: {answer.outcome.value}: {answer.text}")
    if answer.outcome is not control.Outcome.OK:
        return CTL_CODES["NotRecovered"]
    if found is not None and word != control.STATUS:
        _end_journal(found, gone=arguments.go)
    return 0


def _journal_of_the_source(migration_id: str) -> Listed | None:
    """Return this host's journal of a migration away from it that has not ended, if there is one.

    Only root can read it.
    """
    for each in book.listed():
        begun = each.account.begun
        if (begun.migration_id, begun.side, each.account.ended) == (migration_id, SOURCE, None):
            return each
    return None


def _seen(found: Listed) -> recovery.SourceSeen:
    begun = found.account.begun
    assert begun.init is not None
    return recovery.SourceSeen(
        state=found.account.state,
        goes_on=found.owned,
        init=begun.init.pid,
        lives=cut_off.lives(begun),
    )


def _end_journal(found: Listed, *, gone: bool) -> None:
    """End the source's journal of a migration that was recovered. A failure changes nothing.

    If the container is not `gone`, what the migration has changed on the source is undone.
    """
    outcome = State.RESUMED if gone else State.ROLLED_BACK
    with contextlib.suppress(OSError), Journal(found.path) as journal:
        if gone or cut_off.undo(found.account, say):
            end = Ended(at_ms=book.now_ms(), outcome=outcome.value, error=RECOVERED)
            journal.append(encode(end))


def ask_on(host: str, migration_id: str, word: str) -> control.Reply:
    """Send a word to the agent of a migration on another host by SSH, and return its reply.

    That host needs only python3. Raises BadRequest for a host that cannot be parsed, Refused for
    one that cannot be reached, and ConnectionError if no agent answers there.
    """
    try:
        destination = Destination.parse(host)
    except ValueError as error:
        raise BadRequest(str(error), "see 'migratectl recover --help'") from error
    try:
        with by_ssh(destination) as connection:
            return asking.ask(connection, migration_id, word, say)
    except (TransportError, AgentGone) as error:
        raise causes.refused(error, host) from error


def _docker_runtime(arguments: argparse.Namespace) -> int:
    _check_root()
    try:
        told = install.remove() if arguments.remove else install.install()
    except (OSError, ValueError) as error:
        say(
            f"migratectl: {install.SETTINGS} and docker stay as they are: {error};"
            " mend that, then try again"
        )
        return CTL_CODES["NoDockerRuntime"]
    for line in told or ["nothing to do"]:
        put(f"migratectl: {line}")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, which raises BadRequest for one it cannot parse."""
    parser = Parser(prog="migratectl", description=__doc__)
    parser.add_argument("--version", action="version", version=f"migratectl {VERSION}")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser(
        "status",
        help="the migrations of this host: those it holds a container of, those that were cut off,"
        " those under way, and those that ended",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=_status)
    command = commands.add_parser("recover", help="end a migration whose coordinator is gone")
    command.add_argument(
        "id", type=_migration_id, help="the migration's id, from the coordinator's output or log"
    )
    command.set_defaults(run=_recover)
    command.add_argument(
        "--on", metavar="HOST", help="the move's target, to be asked by SSH (default: this host)"
    )
    how = command.add_mutually_exclusive_group()
    how.add_argument(
        "--go",
        action="store_true",
        help="run it on the target; on the source this command looks whether it is dead there",
    )
    how.add_argument(
        "--abort", action="store_true", help="the source's container lives: drop it on the target"
    )
    command.add_argument(
        "--source-is-dead",
        action="store_true",
        help="with --go, where this command cannot look: you know that the source's is dead",
    )
    command = commands.add_parser(
        "docker-runtime",
        help="let docker on this host take containers in: adds a runtime to its daemon.json",
    )
    command.set_defaults(run=_docker_runtime)
    command.add_argument("--remove", action="store_true", help="take that back")
    return parser

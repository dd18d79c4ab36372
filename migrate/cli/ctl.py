"""`migratectl`: look after moves that ended in the middle, and make a host ready for them."""

from __future__ import annotations

import argparse
import contextlib
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path

from checkpoint import schema
from checkpoint.engines.docker import install
from checkpoint.errors import DataInvalid
from migrate import VERSION, logs
from migrate.cli import recover, status
from migrate.cli.console import Parser, check_root, open_standard_streams, put, say
from migrate.cli.exit_codes import CODES, CTL_CODES, exit_code
from migrate.errors import Defect, MigrateError
from migrate.wire.values import MigrationId


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


def _status(arguments: argparse.Namespace) -> int:
    check_root()
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


def _docker_runtime(arguments: argparse.Namespace) -> int:
    check_root()
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
    command = commands.add_parser(
        "recover",
        help="bring a migration that was cut off to its end: the container runs on one host then",
    )
    command.add_argument(
        "id",
        nargs="?",
        type=_migration_id,
        help="the migration's id, from the coordinator's output or log (default: each that was cut"
        " off on its source, this host)",
    )
    command.set_defaults(run=recover.run)
    command.add_argument(
        "--on",
        metavar="HOST",
        help="the move's other host, to be asked by SSH (default, on the source: the target as it"
        " was named)",
    )
    how = command.add_mutually_exclusive_group()
    how.add_argument(
        "--go",
        action="store_true",
        help="run it on the target; refused where the source shows that it lives",
    )
    how.add_argument(
        "--abort",
        action="store_true",
        help="drop it on the target; refused where the source shows that it was killed",
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

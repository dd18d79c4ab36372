"""`migratectl`: look after moves that ended in the middle, and make a host ready for them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from checkpoint.images.directory import RUN
from checkpoint.runtimes import docker_runtime
from migrate import VERSION
from migrate.agent import recover


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    return int(arguments.run(arguments))


def _status(_: argparse.Namespace) -> int:
    for path in sorted(RUN.glob(f"*{recover.SUFFIX}")):
        try:
            print(f"{path.name.removesuffix(recover.SUFFIX)}: {recover.ask(path, recover.STATUS)}")
        except OSError as error:
            print(f"migratectl: {path}: {error.strerror or error}", file=sys.stderr)
    return 0


def _recover(arguments: argparse.Namespace) -> int:
    word = recover.STATUS
    if arguments.go:
        word = recover.GO_FENCED if arguments.source_is_dead else recover.GO
    elif arguments.abort:
        word = recover.ABORT
    try:
        answer = recover.ask(recover.control_path(arguments.id), word)
    except OSError as error:
        print(
            f"migratectl: no agent on this host holds a container for migration {arguments.id}"
            f" ({error.strerror or error}); nothing was changed; run this on the target host",
            file=sys.stderr,
        )
        return 61
    print(f"migratectl: {answer}")
    return 0 if answer.startswith(("ok:", "container ")) else 62


def _docker_runtime(arguments: argparse.Namespace) -> int:
    try:
        told = docker_runtime.remove() if arguments.remove else docker_runtime.install()
    except (OSError, ValueError) as error:
        print(f"migratectl: {docker_runtime.SETTINGS} and docker stay as they are: {error}", file=sys.stderr)
        return 63
    print("\n".join(f"migratectl: {line}" for line in told or ["nothing to do"]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="migratectl", description=__doc__)
    parser.add_argument("--version", action="version", version=f"migratectl {VERSION}")
    commands = parser.add_subparsers(required=True)
    status = commands.add_parser("status", help="containers this host holds, restored but not running")
    status.set_defaults(run=_status)
    command = commands.add_parser("recover", help="end a migration whose coordinator is gone, on the target host")
    command.add_argument("id", help="the migration's id, from the coordinator's output or log")
    command.set_defaults(run=_recover)
    how = command.add_mutually_exclusive_group()
    how.add_argument("--go", action="store_true", help="the source's container is dead: run it here")
    how.add_argument("--abort", action="store_true", help="the source's container lives: drop it here")
    command.add_argument(
        "--source-is-dead", action="store_true", help="with --go: even though the link to the source seems alive"
    )
    command = commands.add_parser(
        "docker-runtime", help="let docker on this host take containers in: adds a runtime to its daemon.json"
    )
    command.set_defaults(run=_docker_runtime)
    command.add_argument("--remove", action="store_true", help="take that back")
    return parser

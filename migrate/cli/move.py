"""`migrate <ctr> <host>`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from migrate import VERSION
from migrate.cli.exit_codes import exit_code
from migrate.cli.progress import observer_for
from migrate.coordinator import move_container
from migrate.errors import BadRequest, MigrateError
from migrate.report import Report, summary
from transport.destination import Destination


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    report = Report.begin(arguments.container, arguments.host)
    status = 0
    try:
        destination = _destination(arguments.host)
        with observer_for(sys.stderr) as observer:
            move_container(report, destination, observer)
    except MigrateError as error:
        print(f"migrate: {error}", file=sys.stderr)
        status = exit_code(error)
    if arguments.json:
        print(json.dumps(report.to_json()))
    elif status == 0:
        print("\n".join(summary(report)))
    return status


def _destination(text: str) -> Destination:
    try:
        return Destination.parse(text)
    except ValueError as error:
        raise BadRequest(str(error), "see 'migrate --help'") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="migrate", description="Move a running container to another host over SSH, its connections alive."
    )
    parser.add_argument("container", metavar="CTR", help="name of the running container on this host")
    parser.add_argument("host", metavar="HOST", help="where to: name, user@name, name:port, or an ssh_config alias")
    parser.add_argument("--json", action="store_true", help="print the report as JSON, and nothing else, on stdout")
    parser.add_argument("--version", action="version", version=f"migrate {VERSION}")
    return parser

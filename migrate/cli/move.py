"""The command `migrate <ctr> <host>`: it moves a running container to another host."""

from __future__ import annotations

import argparse
import json
import logging
import re
import signal
import sys
from collections.abc import Sequence

from checkpoint.engines.registry import ENGINES
from checkpoint.host.own_process import keep_to_itself
from migrate import VERSION, logs
from migrate.cli.console import Parser, Printing, open_standard_streams, put, say
from migrate.cli.exit_codes import exit_code
from migrate.cli.progress import observer_for
from migrate.coordinator import move_container
from migrate.decisions.convergence import OnNoConverge, Policy
from migrate.decisions.state import State
from migrate.decisions.write_tracking import Mode
from migrate.errors import BadRequest, Defect, Interrupted, MigrateError
from migrate.limits import Limits
from migrate.options import Options
from migrate.reach import Connect, by_ssh
from migrate.report import Report, summary
from transport.destination import Destination

SCALES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
#: The lowest rate, in bytes per second: at less no container arrives in a lifetime.
LEAST_RATE = 1000
#: The highest number of rounds, seconds or milliseconds: more than anybody waits.
MOST_COUNT = 10**9 - 1
EXAMPLES = """\
examples:
  migrate redis beta                       the container redis to the host beta
  migrate web root@10.0.0.7:2222 --max-downtime 200 --on-no-converge abort --json
                                           as a scheduler does it: not at any price, with a report

The exit code says how far the migration came (docs/exit-codes.md).
"""


def main(
    argv: Sequence[str] | None = None, *, connect: Connect = by_ssh, limits: Limits | None = None
) -> int:
    """Run `migrate` and return its exit code, one of docs/exit-codes.md.

    `connect` and `limits` are for callers in Python. With --json the report is printed whatever
    happens. An unknown error is reported as a Defect, never as a traceback.
    """
    open_standard_streams()
    keep_to_itself()
    words = sys.argv[1:] if argv is None else argv
    report = Report.begin("", "")
    error: MigrateError | None
    with logs.recorded(*_printing(words)) as recorder:
        try:
            _migration(report, words, connect, limits or Limits())
            error = None
        except MigrateError as raised:
            error = raised
        except KeyboardInterrupt:
            # The migration has its own handlers: before they were set nothing had been done, and
            # after they were removed it had ended.
            error = None if report.outcome == State.DONE.value else Interrupted(signal.SIGINT)
        except Exception as raised:  # noqa: BLE001  (the last resort)
            error = Defect(raised, report.outcome, report.target)
    if error is not None:
        report.enter(error)
        if error.defect or report.log_directory is not None:
            _keep(report, error, recorder)
    return _tell(report, error, as_json="--json" in words)


def _printing(words: Sequence[str]) -> list[logging.Handler]:
    """Return the handler that prints the log, if these words of the command line ask for it."""
    debug = "--debug" in words
    return [Printing(debug=debug)] if debug or "--verbose" in words else []


def _migration(report: Report, words: Sequence[str], connect: Connect, limits: Limits) -> None:
    arguments = parser().parse_args(words)
    report.container, report.target = arguments.container, arguments.host
    destination = _destination(arguments.host)
    with observer_for(sys.stderr, logged=arguments.verbose or arguments.debug) as observer:
        move_container(report, destination, observer, options_of(arguments, limits), connect)


def _tell(report: Report, error: MigrateError | None, *, as_json: bool) -> int:
    """Print how the migration ended, and return the exit code."""
    if error is not None:
        say(f"migrate: {error}{f'; logs: {report.log_directory}' if report.log_directory else ''}")
    if as_json:
        put(json.dumps(report.to_json()))
    elif error is None:
        for line in summary(report):
            put(line)
    return 0 if error is None else exit_code(error)


def _keep(report: Report, error: MigrateError, recorder: logs.Recorder) -> None:
    """Keep the error's traceback, the report and this program's log for a later look (logs.py).

    Their directory is entered into the report. A failure to write them is only printed.
    """
    facts = ("report.json", json.dumps(report.to_json(), indent=2).encode())
    try:
        kept = logs.keep(
            report.migration_id,
            "source",
            [logs.traceback_of(error), facts, recorder.log("move.log")],
        )
    except OSError as failure:
        say(f"migrate: no logs could be kept: {failure}")
        return
    report.log_directory = str(kept)


def _destination(text: str) -> Destination:
    try:
        return Destination.parse(text)
    except ValueError as error:
        raise BadRequest(str(error), "see 'migrate --help'") from error


def options_of(arguments: argparse.Namespace, limits: Limits) -> Options:
    """Return the options of a migration that the command line says."""
    return Options(
        engine=arguments.engine,
        mode=Mode(arguments.mode),
        policy=Policy(
            max_downtime_ms=arguments.max_downtime,
            max_frozen_s=arguments.max_frozen,
            max_rounds=arguments.max_rounds,
            timeout_s=arguments.max_precopy_time,
            on_no_converge=OnNoConverge(arguments.on_no_converge),
        ),
        bandwidth_limit=arguments.bandwidth_limit,
        reconnect_s=arguments.reconnect_timeout,
        limits=limits,
        verify_memory=arguments.verify_memory,
        debug=arguments.debug,
    )


def none_or_more(text: str) -> int:
    """Return the number in `text`, from 0 to MOST_COUNT. Raises ArgumentTypeError."""
    return 0 if text == "0" else count(text)


def count(text: str) -> int:
    """Return the number in `text`, from 1 to MOST_COUNT. Raises ArgumentTypeError."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number from 1 to {MOST_COUNT}")
    return int(text)


def rate(text: str) -> int:
    """Return the bytes per second in `text`: a number, perhaps with K, M or G (powers of 1000).

    Raises ArgumentTypeError, also for less than LEAST_RATE.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)", text, re.ASCII | re.IGNORECASE)
    number = float(found[1]) * SCALES[found[2].upper()] if found else 0.0
    if not LEAST_RATE <= number < 1e15:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a rate of 1K or more, like 50M or 1.5G"
        )
    return int(number)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, which raises BadRequest for one it cannot parse."""
    parser = Parser(
        prog="migrate",
        description="Move a running container to another host over SSH, its connections alive.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "container", metavar="CTR", help="name of the running container on this host"
    )
    parser.add_argument(
        "host", metavar="HOST", help="where to: name, user@name, name:port, or an ssh_config alias"
    )
    parser.add_argument(
        "--engine",
        choices=sorted(ENGINES),
        help="which engine's container it is (default: the one that has a container of that name)",
    )
    memory = parser.add_argument_group("memory and the freeze")
    memory.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        default=Mode.AUTO.value,
        help="send memory ahead while the container runs (pre-copy), or all of it in the freeze"
        " (stop-copy); auto: pre-copy where these hosts can (default)",
    )
    _add_precopy_options(memory)
    memory.add_argument(
        "--verify-memory",
        action="store_true",
        help="compare every page of the frozen container with what arrived, not only a sample,"
        " before it goes on there; the freeze is longer by about a second a GiB",
    )
    _add_output_options(parser.add_argument_group("output"))
    parser.add_argument("--version", action="version", version=f"migrate {VERSION}")
    return parser


def _add_output_options(output: argparse._ArgumentGroup) -> None:
    output.add_argument(
        "--json", action="store_true", help="print the report as JSON, and nothing else, on stdout"
    )
    output.add_argument(
        "--verbose", action="store_true", help="print each step on stderr, with time and host"
    )
    output.add_argument(
        "--debug",
        action="store_true",
        help="print besides what both hosts do in each step: requests, programs, CRIU",
    )


def _add_precopy_options(parser: argparse._ArgumentGroup) -> None:
    """Add the options of pre-copy: how long, how fast, and what to do if that is not enough."""
    parser.add_argument(
        "--max-downtime",
        metavar="MS",
        type=count,
        default=Policy.max_downtime_ms,
        help="longest freeze allowed, as predicted before it begins (default %(default)s)",
    )
    parser.add_argument(
        "--max-frozen",
        metavar="SECONDS",
        type=count,
        help="longest freeze in fact: after it the container runs on here, whatever hangs"
        " (default: ten times what was predicted, at least 5)",
    )
    parser.add_argument(
        "--on-no-converge",
        choices=[choice.value for choice in OnNoConverge],
        default=Policy.on_no_converge.value,
        help="when a longer one is predicted and more rounds do not help: freeze it anyway"
        " (default), leave it alone (abort), or slow it down by its cpu cgroup as far as that"
        " helps, then freeze it (throttle)",
    )
    parser.add_argument(
        "--max-rounds",
        metavar="N",
        type=count,
        default=Policy.max_rounds,
        help="of pre-copy (default %(default)s)",
    )
    parser.add_argument(
        "--max-precopy-time",
        metavar="SECONDS",
        type=count,
        default=Policy.timeout_s,
        help="no further round of pre-copy begins after this long (default %(default)s)",
    )
    parser.add_argument(
        "--reconnect-timeout",
        metavar="SECONDS",
        type=none_or_more,
        default=Options.reconnect_s,
        help="how long a lost connection is tried again while the container runs (default"
        " %(default)s; 0: never); in the freeze, a lost connection ends the move",
    )
    parser.add_argument(
        "--bandwidth-limit",
        metavar="RATE",
        type=rate,
        help="bytes per second to send while the container runs, like 50M (powers of 1000);"
        " the freeze is not limited",
    )

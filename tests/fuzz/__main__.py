"""scripts/fuzz: look for inputs that a parser does not bear, and for what hostile hosts can do."""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import PIPE, STDOUT
from types import FrameType
from typing import Any

import checkpoint
import migrate
import transport
from tests.fuzz import peers
from tests.fuzz.parser import CORPUS, MOST_S
from tests.fuzz.parsers import PARSERS

#: So much is kept of a parser's corpus, the shortest inputs first.
MOST_KEPT_BYTES = 4 << 10
MOST_INPUT_BYTES = 1 << 13
AT_ONCE = 2
PRODUCT = tuple(
    str(Path(package.__file__ or "").parent) for package in (checkpoint, migrate, transport)
)
#: A step of a run: file, line, next line.
Step = tuple[str, int, int]
Trace = Callable[[FrameType, str, object], Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of fuzzing one parser.

    `defect` is the end of what was said of an input that the parser neither took nor refused, and
    `file` has that input.
    """

    name: str
    runs: int
    covered: int
    inputs: int
    defect: str | None
    file: Path | None


def fuzz(name: str, seconds: int, findings: Path, *, keep: bool) -> Outcome:
    """Fuzz one parser for so long, or until a defect is found; its input is left in findings."""
    with tempfile.TemporaryDirectory(prefix="migrate-fuzz-") as directory:
        found, seeds = Path(directory, "found"), Path(directory, "seeds")
        for path in (found, seeds):
            path.mkdir()
        for number, data in enumerate(PARSERS[name].seeds):
            (seeds / f"seed-{number}").write_bytes(data)
        known = [path for path in (seeds, CORPUS / name) if path.exists()]
        findings.mkdir(parents=True, exist_ok=True)
        options = [
            f"-max_total_time={seconds}",
            f"-timeout={MOST_S:.0f}",
            f"-max_len={MOST_INPUT_BYTES}",
        ]
        before = set(findings.glob(f"{name}-*"))
        whole, said = _guided(
            name, *options, f"-artifact_prefix={findings}/{name}-", *map(str, (found, *known))
        )
        numbers = re.findall(
            r"^#(\d+)\s.* cov: (\d+) ft: \d+ corp: (\d+)/", said, re.MULTILINE
        ) or [(0, 0, 0)]
        new = sorted(set(findings.glob(f"{name}-*")) - before)
        if keep:
            _keep(name, [found, *known])
    runs, covered, inputs = map(int, numbers[-1])
    defect = None if whole else "\n".join(said.splitlines()[-25:])
    return Outcome(
        name=name,
        runs=runs,
        covered=covered,
        inputs=inputs,
        defect=defect,
        file=new[0] if new else None,
    )


def _keep(name: str, directories: Sequence[Path]) -> None:
    """Have the corpus of a parser hold the shortest inputs that take steps which no seed takes."""
    inputs = {path.read_bytes() for directory in directories for path in directory.glob("*")}
    directory, room = CORPUS / name, MOST_KEPT_BYTES
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        path.unlink()
    gone = set[Step]().union(*(_steps(name, data) for data in PARSERS[name].seeds))
    for data in sorted(inputs, key=lambda data: (len(data), data)):
        steps = _steps(name, data)
        if not steps <= gone and (room := room - len(data)) >= 0:
            gone |= steps
            (directory / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)


def _steps(name: str, data: bytes) -> set[Step]:
    """Return the steps that the product's code takes with an input."""
    found: set[Step] = set()

    def line(frame: FrameType, event: str, _: object, at: int = 0) -> Trace:
        found.add((frame.f_code.co_filename, at, frame.f_lineno))
        return partial(line, at=frame.f_lineno)

    def call(frame: FrameType, event: str, _: object) -> Trace | None:
        return line if frame.f_code.co_filename.startswith(PRODUCT) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        PARSERS[name].takes(data)
    finally:
        sys.settrace(before)
    return found


def _guided(name: str, *options: str) -> tuple[bool, str]:
    """Run the fuzzer, and return whether it came to its end, and what it said."""
    argv = [sys.executable, "-m", "tests.fuzz.guided", name, *options]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=STDOUT, errors="replace", check=False
    )
    return done.returncode == 0, done.stdout


def parsers(arguments: argparse.Namespace) -> int:
    """Fuzz the parser that was named, or all, and return the exit code."""
    names = [arguments.name] if arguments.name else list(PARSERS)
    print(f"{'parser':18} {'runs':>10} {'covered':>8} {'inputs':>7}  defects", flush=True)
    defects = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for found in pool.map(
            lambda name: fuzz(name, arguments.seconds, arguments.findings, keep=arguments.keep),
            names,
        ):
            told = found.file or ("failed" if found.defect else "none")
            print(
                f"{found.name:18} {found.runs:10} {found.covered:8} {found.inputs:7}  {told}",
                flush=True,
            )
            if found.defect:
                defects += 1
                print(found.defect, file=sys.stderr, flush=True)
    return 1 if defects else 0


def hostile(arguments: argparse.Namespace) -> int:
    """Have hostile peers do what they like, and return the exit code.

    A defect is raised, and its traceback tells the sequence.
    """
    sides = [arguments.side] if arguments.side else list(peers.SIDES)
    with (
        tempfile.TemporaryDirectory(prefix="migrate-fuzz-") as directory,
        peers.staged(Path(directory)) as stage,
    ):
        for side in sides:
            print(f"{side}: {peers.play(stage, side, arguments.sequences)}", flush=True)
    return 0


def main(argv: Sequence[str]) -> int:
    """Do what the command line says, and return the exit code: 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    verbs = parser.add_subparsers(required=True)
    for verb, what in (
        ("parser", "fuzz one parser, guided by coverage"),
        ("parsers", "likewise all, two at a time"),
    ):
        command = verbs.add_parser(verb, help=what)
        command.set_defaults(run=parsers, name=None)
        if verb == "parser":
            command.add_argument("name", choices=sorted(PARSERS))
        command.add_argument(
            "--seconds", type=int, default=60, help="of each (default %(default)s)"
        )
        command.add_argument(
            "--keep",
            action="store_true",
            help="renew tests/fuzz/corpus with what leads somewhere new",
        )
        command.add_argument(
            "--findings",
            type=Path,
            default=Path("fuzz-findings"),
            help="directory for what is found (%(default)s)",
        )
    command = verbs.add_parser(
        "peers", help="a hostile source, then a hostile target, against what they talk to"
    )
    command.set_defaults(run=hostile)
    command.add_argument(
        "--sequences", type=int, default=20_000, help="against each (default %(default)s)"
    )
    command.add_argument("--side", choices=sorted(peers.SIDES), help="only this one is hostile")
    arguments = parser.parse_args(argv)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

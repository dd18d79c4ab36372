"""migrate/cli/move.py: what the command line makes of options."""

from __future__ import annotations

import argparse

import pytest

from migrate.cli import move
from migrate.decisions.convergence import OnNoConverge, Policy
from migrate.decisions.write_tracking import Mode
from migrate.errors import BadRequest
from migrate.limits import Limits
from migrate.options import Options


def options(*words: str) -> Options:
    return move._options(move._parser().parse_args(["ctr", "host", *words]), Limits())


def test_the_defaults_of_the_command_line_are_those_of_the_program() -> None:
    assert options() == Options()


def test_every_option_arrives() -> None:
    words = "--mode stop-copy --max-downtime 50 --on-no-converge throttle --max-rounds 4"
    words += " --max-precopy-time 9 --bandwidth-limit 2M"
    policy = Policy(
        max_downtime_ms=50, max_rounds=4, timeout_s=9, on_no_converge=OnNoConverge.THROTTLE
    )
    assert options(*words.split(), "--bandwidth-limit", "2M") == Options(
        mode=Mode.STOP_COPY, policy=policy, bandwidth_limit=2_000_000
    )


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [("1000", 1000), ("1K", 1000), ("50M", 50_000_000), ("1.5g", 1_500_000_000)],
)
def test_rates(text: str, bytes_per_s: int) -> None:
    assert move.rate(text) == bytes_per_s


@pytest.mark.parametrize(
    "text", ["", "M", "fast", "-1M", "0", "999", "1e9", "nan", "inf", "50MB", "9" * 20, "\uff11M"]
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="50M"):
        move.rate(text)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.5", "x", "\u00b2", "\uff11", "1\n", "9" * 10, "9" * 5000]
)
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="from 1 to"):
        move.count(text)


def test_an_option_that_makes_no_sense() -> None:
    with pytest.raises(
        BadRequest,
        match="--max-downtime: '0' is not a number from 1 to 999999999; nothing was changed",
    ):
        options("--max-downtime", "0")

"""What is decided without I/O: states, convergence, clocks, facts."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import errors
from migrate.clock import Sample, estimate
from migrate.convergence import Round, Verdict, decide
from migrate.errors import Where
from migrate.facts import Facts, check_host, check_pair, kernel_tuple, memory_needed, version_text
from migrate.state import REVERSIBLE, InvalidMove, State, check_move

MIB = 1 << 20

# --- states ------------------------------------------------------------------------------------------------

#: Every step there is, by hand.
STEPS = {
    ("PLANNED", "PREPARED"),
    ("PREPARED", "ARMED"),
    ("ARMED", "FROZEN"),
    ("FROZEN", "HELD"),
    ("HELD", "KILLING"),
    ("KILLING", "KILLED"),
    ("KILLED", "RESUMED"),
    ("RESUMED", "DONE"),
    ("PLANNED", "ROLLING_BACK"),
    ("PREPARED", "ROLLING_BACK"),
    ("ARMED", "ROLLING_BACK"),
    ("FROZEN", "ROLLING_BACK"),
    ("HELD", "ROLLING_BACK"),
    ("ROLLING_BACK", "ROLLED_BACK"),
}


@pytest.mark.parametrize(("old", "new"), itertools.product(State, State), ids=lambda state: state.name)
def test_every_pair_of_states(old: State, new: State) -> None:
    if (old.name, new.name) in STEPS:
        check_move(old, new)
    else:
        with pytest.raises(InvalidMove):
            check_move(old, new)


def test_no_way_back_from_the_kill() -> None:
    reached, pending = set(), [State.KILLING]
    while pending:
        state = pending.pop()
        reached.add(state)
        pending += [new for new in State if (state.name, new.name) in STEPS and new not in reached]
    assert reached == {State.KILLING, State.KILLED, State.RESUMED, State.DONE}
    assert not reached & REVERSIBLE


# --- when to freeze ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes_mib", "verdict", "reason"),
    [
        ([1], Verdict.FREEZE, "little is left"),
        ([2], Verdict.FREEZE, "little is left"),
        ([3], Verdict.GO_ON, "shrinking"),
        ([1000], Verdict.GO_ON, "shrinking"),
        ([1000, 1000], Verdict.GO_ON, "shrinking"),  # the first round is all memory: compared with nothing
        ([1000, 2000], Verdict.GO_ON, "shrinking"),
        ([1000, 100, 69], Verdict.GO_ON, "shrinking"),
        ([1000, 100, 70], Verdict.GO_ON, "shrinking"),
        ([1000, 100, 71], Verdict.FREEZE, "no longer shrink"),
        ([1000, 100, 500], Verdict.FREEZE, "no longer shrink"),
        ([1000, 100, 2], Verdict.FREEZE, "little is left"),
        ([1000, 512, 256, 128, 64, 32, 16], Verdict.GO_ON, "shrinking"),
        ([1000, 512, 256, 128, 64, 32, 16, 8], Verdict.FREEZE, "8 rounds are enough"),
        ([0], Verdict.FREEZE, "little is left"),
    ],
)
def test_when_to_freeze(sizes_mib: list[int], verdict: Verdict, reason: str) -> None:
    decision = decide([Round(bytes=size * MIB, length_us=1000) for size in sizes_mib])
    assert decision.verdict is verdict
    assert reason in decision.reason
    assert f"round {len(sizes_mib)}" in decision.reason


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=40))
def test_rounds_end(sizes: list[int]) -> None:
    """Whatever a container does, it is frozen within a bounded number of rounds."""
    rounds = []
    for size in sizes:
        rounds.append(Round(bytes=size, length_us=1))
        if decide(rounds).verdict is Verdict.FREEZE:
            break
    assert len(rounds) <= 8


# --- clocks --------------------------------------------------------------------------------------------------

journeys = st.lists(
    st.tuples(st.integers(0, 10**12), st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=20
)


@given(st.integers(-(10**18), 10**18), journeys)
def test_the_true_offset_is_within_the_error(true_ns: int, given_journeys: list[tuple[int, int, int]]) -> None:
    """However a round trip divides into there and back."""
    samples = [
        Sample(asked_ns=asked, theirs_ns=asked + there + true_ns, answered_ns=asked + there + back)
        for asked, there, back in given_journeys
    ]
    found = estimate(samples)
    assert abs(found.offset_ns - true_ns) <= found.error_ns + 1  # half of an odd trip is rounded
    assert found.error_ns <= min(there + back for _, there, back in given_journeys) / 2
    for sample in samples:
        assert found.to_ours(sample.theirs_ns) + found.offset_ns == sample.theirs_ns


# --- facts -----------------------------------------------------------------------------------------------------

GOOD = Facts(
    hostname="beta",
    kernel="6.18.1",
    machine="x86_64",
    python="3.14.0",
    uid=0,
    criu_version=40201,
    pycriu_error=None,
    runtime="runc",
    runtime_version="1.3.6",
    container_exists=False,
    nftables=True,
    lazy_pages=True,
    rsync=True,
    iproute2=True,
    available_bytes=8 << 30,
)


def test_a_good_host_and_pair() -> None:
    for where in Where:
        check_host(GOOD, where)
    check_pair(GOOD, GOOD, container="web", memory_bytes=1 << 30)
    assert Facts.from_wire(GOOD.to_wire()) == GOOD


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"uid": 1000}, errors.NotRoot, ["not root"]),
        ({"criu_version": None}, errors.MissingOnHost, ["criu"]),
        ({"pycriu_error": "No module named pycriu"}, errors.MissingOnHost, ["pycriu", "No module"]),
        ({"runtime_version": None}, errors.MissingOnHost, ["runc"]),
        ({"rsync": False}, errors.MissingOnHost, ["rsync"]),
        ({"iproute2": False}, errors.MissingOnHost, ["iproute2"]),
        ({"criu_version": 40101}, errors.CriuTooOld, ["4.1.1", "4.2", "6.18"]),
        ({"kernel": "6.16.0-rc1", "criu_version": 40199}, errors.CriuTooOld, ["4.1.99", "4.2"]),
        ({"kernel": "6.15.9", "criu_version": 40000}, errors.CriuTooOld, ["4.0", "4.1"]),
        ({"kernel": "6.13.0", "criu_version": 31900}, errors.CriuTooOld, ["3.19", "4.1"]),
        ({"kernel": "5.10.0-28-amd64", "criu_version": 31500}, errors.CriuTooOld, ["3.15", "3.16"]),
    ],
)
@pytest.mark.parametrize("where", Where)
def test_what_a_host_lacks(
    changed: dict[str, Any], error: type[errors.MigrateError], words: list[str], where: Where
) -> None:
    with pytest.raises(error) as caught:
        check_host(dataclasses.replace(GOOD, **changed), where)
    for word in [*words, where.value, "beta"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("kernel", "criu_version"),
    [("6.16.0", 40200), ("6.15.9", 40100), ("6.13.0-rc1", 40100), ("6.12.44+deb13-cloud", 31600), ("7.0.0", 40200)],
)
def test_the_oldest_criu_that_works(kernel: str, criu_version: int) -> None:
    check_host(dataclasses.replace(GOOD, kernel=kernel, criu_version=criu_version), Where.SOURCE)


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        ({"criu_version": 40101}, {}, errors.CriuWireMismatch),
        ({}, {"criu_version": 40101}, errors.CriuWireMismatch),
        ({}, {"container_exists": True}, errors.NameTaken),
        ({}, {"available_bytes": memory_needed(1 << 30) - 1}, errors.NotEnoughMemory),
    ],
)
def test_what_keeps_a_pair_apart(
    source: dict[str, Any], target: dict[str, Any], error: type[errors.MigrateError]
) -> None:
    with pytest.raises(error):
        check_pair(
            dataclasses.replace(GOOD, **source),
            dataclasses.replace(GOOD, **target),
            container="web",
            memory_bytes=1 << 30,
        )


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ({"criu_version": 40200}, {"criu_version": 40300}),
        ({"criu_version": 31900}, {"criu_version": 40101}),
        ({"container_exists": True}, {}),
        ({"available_bytes": 0}, {"available_bytes": memory_needed(1 << 30)}),
    ],
)
def test_what_does_not(source: dict[str, Any], target: dict[str, Any]) -> None:
    check_pair(
        dataclasses.replace(GOOD, **source), dataclasses.replace(GOOD, **target), container="web", memory_bytes=1 << 30
    )


def test_both_are_of_one_kind_of_machine() -> None:
    """Memory and registers of one cannot go on on the other."""
    with pytest.raises(errors.Refused):
        check_pair(GOOD, dataclasses.replace(GOOD, machine="aarch64"), container="web", memory_bytes=1)


@pytest.mark.parametrize(
    ("number", "text"), [(40201, "4.2.1"), (40200, "4.2"), (31701, "3.17.1"), (100000, "10.0"), (41099, "4.10.99")]
)
def test_how_a_version_is_shown(number: int, text: str) -> None:
    assert version_text(number) == text


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.18.44-cloud", (6, 18)),
        ("6.1.0-28-amd64", (6, 1)),
        ("6.16.0-rc1", (6, 16)),
        ("6.18-rc1", (6, 18)),
        ("6.6.87.2-microsoft-standard-WSL2", (6, 6)),
        ("6.12.48+deb13-amd64", (6, 12)),
        ("5.14.0-503.el9.x86_64", (5, 14)),
        ("6.18+", (6, 18)),
        ("6.18_custom", (6, 18)),
    ],
)
def test_the_version_of_a_kernel(release: str, expected: tuple[int, int]) -> None:
    assert kernel_tuple(release) == expected

"""Tests of migrate/decisions/compatibility.py: hosts that a container can migrate between."""

import pytest

from migrate import errors
from migrate.decisions.compatibility import (
    Facts,
    check_host,
    check_pair,
    kernel_tuple,
    memory_needed,
    version_text,
)
from migrate.errors import Side
from tests.unit.helpers.some_facts import facts

MIB = 1 << 20


@pytest.mark.parametrize("where", Side)
@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"uid": 1000}, errors.NotRoot, "not root"),
        ({"criu_version": None}, errors.MissingOnHost, "criu"),
        ({"pycriu_error": "No module"}, errors.MissingOnHost, "No module"),
        ({"engine_version": None}, errors.MissingOnHost, "runc"),
        ({"rsync": False}, errors.MissingOnHost, "rsync"),
        ({"iproute2": False}, errors.MissingOnHost, "iproute2"),
        ({"criu_version": 40101}, errors.CriuTooOld, "4.2 or newer"),
        ({"kernel": "6.16.0", "criu_version": 40199}, errors.CriuTooOld, "4.2 or newer"),
        ({"kernel": "6.15.9", "criu_version": 40000}, errors.CriuTooOld, "4.1 or newer"),
        ({"kernel": "6.13", "criu_version": 31900}, errors.CriuTooOld, "4.1 or newer"),
        ({"kernel": "6.12.1", "criu_version": 31500}, errors.CriuTooOld, "3.16 or newer"),
    ],
)
def test_each_thing_that_a_host_lacks_is_an_error_of_its_own(
    changes: dict[str, object], error: type[errors.MigrateError], said: str, where: Side
) -> None:
    with pytest.raises(error) as raised:
        check_host(facts(**changes), where)
    assert said in str(raised.value)
    assert where.value in str(raised.value)


@pytest.mark.parametrize(
    ("kernel", "criu"),
    [("6.18.1", 40201), ("6.16", 40200), ("6.15.9", 40100), ("6.12", 31600), ("5.4.0-9", 40201)],
)
def test_a_host_with_all_that_is_needed_is_accepted(kernel: str, criu: int) -> None:
    check_host(facts(kernel=kernel, criu_version=criu), Side.TARGET)


def test_two_hosts_that_do_not_fit_each_other_are_refused() -> None:
    def check(source: Facts, target: Facts) -> None:
        check_pair(source, target, container="c", memory_bytes=100 * MIB, tmpfs_bytes=7 * MIB)

    needed = memory_needed(100 * MIB) + 7 * MIB
    check(facts(), facts(available_bytes=needed))
    with pytest.raises(errors.NotEnoughMemory):
        check(facts(), facts(available_bytes=needed - 1))
    with pytest.raises(errors.NameTaken):
        check(facts(), facts(container_exists=True))
    for here, there in ((40201, 40101), (40199, 40200)):
        with pytest.raises(errors.CriuWireMismatch):
            check(facts(criu_version=here), facts(criu_version=there))
    with pytest.raises(errors.MachineMismatch):
        check(facts(), facts(machine="aarch64"))
    check(facts(criu_version=40000), facts(criu_version=31900))


def test_versions_are_read_and_written_as_people_do() -> None:
    assert [version_text(n) for n in (40201, 40200, 31701)] == ["4.2.1", "4.2", "3.17.1"]
    kernels = {
        "6.18.44-fc-v595": (6, 18),
        "6.16+": (6, 16),
        "6": (6, 0),
        "7.0-rc1": (7, 0),
        "next": (0, 0),
    }
    assert {text: kernel_tuple(text) for text in kernels} == kernels

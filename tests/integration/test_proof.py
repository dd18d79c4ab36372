"""Memory that is about to be restored is compared with what is frozen on the source.

If one byte is wrong, the container goes on on the source.
"""

import json

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.rig import Container, Redis, Workload
from tests.rig.hosts import Hosts

MIB = 24
#: Where the byte is wrong (tests/tools/damage.py), and the kind of memory that passes there.
PLACES = {"store": "private", "image": "shared", "batch": "private"}


@pytest.fixture
def dirtier(hosts: Hosts, request: pytest.FixtureRequest) -> Workload[Container]:
    """A container with memory of one kind, to which nobody writes any more."""
    words = ["--kind", request.param, "--mib", str(MIB), "--mb-per-second", "0"]
    dirtier = hosts.start("dirtier", *words)
    dirtier.verdict()
    return dirtier


@pytest.mark.parametrize(
    ("place", "dirtier"), PLACES.items(), indirect=["dirtier"], ids=PLACES.keys()
)
def test_one_wrong_byte_is_never_restored(
    hosts: Hosts, dirtier: Workload[Container], place: str, request: pytest.FixtureRequest
) -> None:
    """`--places 34` tries a hundred bytes in all."""
    before = hosts.traces()
    for seed in range(request.config.getoption("--places")):
        words = ["dirtier", "beta", "--verify-memory", "--json"]
        done = hosts.migrate_with("damage", place, str(seed), *words)
        assert done.returncode == CODES[errors.MemoryDiffers], (place, seed, done.stderr)
        report = json.loads(done.stdout)
        assert (report["outcome"], report["error_kind"]) == ("rolled back", "MemoryDiffers")
        dirtier.verdict()
        assert hosts.new_traces(before) == {}, (place, seed)


@pytest.mark.checkered
@pytest.mark.parametrize("dirtier", ["private", "shared", "memfd", "file"], indirect=True)
@pytest.mark.parametrize("words", [[], ["--verify-memory"]], ids=["sample", "everything"])
def test_what_was_compared_is_told(
    hosts: Hosts, dirtier: Workload[Container], words: list[str]
) -> None:
    """The pages that are counted are the memory's, and those of a file that is mapped shared."""
    dirtier, report = hosts.move(dirtier, *words)
    proof = report["proof"]
    assert proof["whole"] is bool(words)
    assert proof["pages"] > 1000
    assert proof["compared"] == (proof["pages"] if words else 128)
    assert proof["unreadable"] == 0
    assert proof["miss_one_in_a_thousand"] == pytest.approx(0.0 if words else 0.88, abs=0.02)
    dirtier.verdict()


def test_threads_that_run_on_after_criu_has_read_them_are_no_difference(
    hosts: Hosts, redis: Redis[Container]
) -> None:
    """The kernel may write into each thread's own area then, which is no difference."""
    for _ in range(2):
        redis, _ = hosts.move(redis, "--mode", "stop-copy", "--verify-memory")

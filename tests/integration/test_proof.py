"""What is about to be restored is compared with what is frozen: one wrong byte, and the container stays where it is."""

import json

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.clients import status
from tests.integration.conftest import WORKLOADS, Hosts, new_traces, traces
from tests.rig import Container

ADDRESS, PORT = "10.77.0.64", 7106
MIB = 24
PLACES = ("store", "image", "batch")
KIND = {"store": "private", "image": "shared", "batch": "private"}


@pytest.fixture
def dirtier(hosts: Hosts, request: pytest.FixtureRequest) -> Container:
    """Memory of one kind that nobody writes to any more."""
    words = ["--kind", request.param, "--mib", str(MIB), "--mb-per-second", "0"]
    argv = ["python3", "-B", f"{WORKLOADS}/dirtier.py", *words]
    container = hosts.alpha.start_container("dirtier", ip=ADDRESS, argv=argv)
    assert status(hosts.rig.switch, ADDRESS, PORT)["ok"]
    return container


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        metafunc.parametrize(
            ("place", "dirtier"), [(p, KIND[p]) for p in PLACES], indirect=["dirtier"], ids=PLACES
        )


def test_one_wrong_byte_is_never_restored(
    hosts: Hosts, dirtier: Container, place: str, request: pytest.FixtureRequest
) -> None:
    """`--places 34` for a hundred places in all."""
    before = {node.name: traces(node) for node in (hosts.alpha, hosts.beta)}
    for seed in range(request.config.getoption("--places")):
        done = hosts.migrate_with(
            "damage", place, str(seed), "dirtier", "beta", "--verify-memory", "--json"
        )
        assert done.returncode == CODES[errors.MemoryDiffers], (place, seed, done.stderr)
        report = json.loads(done.stdout)
        assert (report["outcome"], report["error_kind"]) == ("rolled back", "MemoryDiffers")
        assert status(hosts.rig.switch, ADDRESS, PORT)["ok"]
        for node in (hosts.alpha, hosts.beta):
            assert new_traces(before[node.name], traces(node)) == {}, (place, seed)


@pytest.mark.checkered
@pytest.mark.parametrize("dirtier", ["private", "shared", "memfd", "file"], indirect=True)
@pytest.mark.parametrize("words", [[], ["--verify-memory"]], ids=["sample", "everything"])
def test_what_was_compared_is_told(hosts: Hosts, dirtier: Container, words: list[str]) -> None:
    done = hosts.migrate(hosts.alpha, "dirtier", "beta", "--json", *words)
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout)["proof"]
    assert proof["whole"] is bool(words)
    assert proof["pages"] > 1000, (
        "of a file that is mapped shared, the pages are the file's, not the memory's"
    )
    assert proof["compared"] == (proof["pages"] if words else 128)
    assert proof["unreadable"] == 0
    assert proof["miss_one_in_a_thousand"] == pytest.approx(0.0 if words else 0.88, abs=0.02)
    assert status(hosts.rig.switch, ADDRESS, PORT)["ok"]


def test_threads_that_go_on_for_a_moment_after_criu_has_read_them(
    hosts: Hosts, redis: Container
) -> None:
    """The kernel may write into each thread's own area then, which is no difference."""
    source = hosts.alpha
    for _ in range(2):
        target = hosts.other(source)
        done = hosts.migrate(source, "redis", target.name, "--mode", "stop-copy", "--verify-memory")
        assert done.returncode == 0, done.stderr
        source = target

"""One move of one container, explained step by step for "Add a test" in CONTRIBUTING.md.

The fixture `hosts` (tests/conftest.py) has two real hosts, alpha and beta, each with its own sshd,
CRIU and engines. It lists what is on both before and after the test: what the move leaves behind on
a host, such as a mount, a process or a file, fails the test without an assertion of its own.
"""

from tests.rig.hosts import Hosts


def test_an_appender_goes_on_where_it_was_moved(hosts: Hosts) -> None:
    """The container runs on beta alone, and the program in it has lost nothing of what it keeps."""
    # tests/workloads/appender.py appends to a log all the time, in a container of runc's on alpha.
    # `start` returns when the program answers (tests/rig/workload.py).
    appender = hosts.start("appender")

    # The verdict is what the program says of itself. It first reads its whole log, its mapped
    # counter and its files. `verdict` fails the test if the program has found anything wrong.
    before = appender.verdict()

    # This runs `migrate appender beta --json` on alpha, as a user would, and fails the test if
    # that fails. The results are the same workload, on beta now, and the report (docs/report.md).
    appender, report = hosts.move(appender)

    # The tool says that it has moved the container: to beta, in one piece, from its own clock.
    assert report["outcome"] == "done"
    assert report["downtime_us"] > 0

    # The hosts say where the container is. `status` asks the engine of the workload's own node.
    assert appender.status == "running"
    assert appender.on(hosts.alpha).status is None

    # The program says that it goes on: it appends three lines more, and the log still begins with
    # the lines that it had on alpha. How long that takes is not asserted: `scripts/bench` measures.
    after = appender.goes_on("written", by=3)
    assert after["written"] >= before["written"] + 3

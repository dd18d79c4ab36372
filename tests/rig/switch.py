"""The switch between the nodes: where a test's clients run, with the files of this machine."""

import subprocess
from collections.abc import Sequence
from os import PathLike

from tests.rig import names, network, process


class Switch:
    """Runs commands in the switch's network namespace; they reach nodes and containers by address."""

    def __init__(self, rig: str) -> None:
        self.netns = names.member(rig, names.SWITCH)
        self.address = names.SWITCH_ADDRESS

    @property
    def way_in(self) -> Sequence[str]:
        """What to put before a command to have it run here; it becomes the process, so it gets its signals."""
        return ["nsenter", f"--net={network.netns_path(self.netns)}", "--"]

    def run(
        self,
        argv: Sequence[str | PathLike[str]],
        *,
        check: bool = True,
        input: str | None = None,
        timeout: float | None = process.DEFAULT_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        return process.run(argv, through=self.way_in, check=check, input=input, timeout=timeout)

    def popen(
        self,
        argv: Sequence[str | PathLike[str]],
        *,
        stdin: process.Stream = subprocess.DEVNULL,
        stdout: process.Stream = None,
        stderr: process.Stream = None,
    ) -> subprocess.Popen[str]:
        return process.popen(argv, through=self.way_in, stdin=stdin, stdout=stdout, stderr=stderr)

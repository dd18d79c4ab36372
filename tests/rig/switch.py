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

    def command(self, argv: Sequence[str | PathLike[str]]) -> Sequence[str | PathLike[str]]:
        """The command as this machine must run it; it becomes the process, so it gets its signals."""
        return ["nsenter", f"--net={network.netns_path(self.netns)}", "--", *argv]

    def run(
        self,
        argv: Sequence[str | PathLike[str]],
        *,
        check: bool = True,
        input: str | None = None,  # noqa: A002 - subprocess's own name for it
        timeout: float | None = process.DEFAULT_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        return process.run(self.command(argv), check=check, input=input, timeout=timeout)

    def popen(
        self,
        argv: Sequence[str | PathLike[str]],
        *,
        stdin: process.Stream = subprocess.DEVNULL,
        stdout: process.Stream = None,
        stderr: process.Stream = None,
    ) -> subprocess.Popen[str]:
        return process.popen(self.command(argv), stdin=stdin, stdout=stdout, stderr=stderr)

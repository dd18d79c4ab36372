"""The switch between the nodes: where a test's clients run, with the files of this machine."""

from collections.abc import Sequence
from os import PathLike

from tests.rig import names, network
from tests.rig.place import Place


class Switch(Place):
    """Runs commands in the switch's network namespace; they reach nodes and containers by address."""

    def __init__(self, rig: str) -> None:
        self.netns = names.member(rig, names.SWITCH)
        self.address = names.SWITCH_ADDRESS

    def command(self, argv: Sequence[str | PathLike[str]]) -> Sequence[str | PathLike[str]]:
        """The command becomes the process, so it gets its signals."""
        return ["nsenter", f"--net={network.netns_path(self.netns)}", "--", *argv]

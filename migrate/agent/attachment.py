"""The network of a container on the host it comes to: there beforehand, unplugged; plugged in at the resume."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable

from checkpoint.errors import NetworkError
from checkpoint.network import conntrack, link, netns
from checkpoint.network.frames import HeldFrames
from checkpoint.network.model import Interface, Network


class Attachment:
    """Made with the namespace; `undo` removes that, `tidy` closes what only the move needs."""

    def __init__(
        self,
        network: Network | None,
        undo: contextlib.ExitStack,
        tidy: contextlib.ExitStack,
        log: Callable[[str], None],
    ) -> None:
        self._interfaces: tuple[Interface, ...] = ()
        self._tidy, self._log = tidy, log
        self._announcer: link.Announcer | None = None
        self._held: list[HeldFrames] = []
        self._late: defaultdict[int, list[bytes | memoryview]] = defaultdict(list)
        if network is not None:
            undo.callback(netns.create(network).remove)
            self._open(network)

    def adopt(self, path: str) -> None:
        """Unplug what an engine made and plugged in. Raises NetworkError or NotMovable."""
        network = netns.read(path)
        for interface in network.interfaces:
            link.set_link(interface.host_name, up=False)
        self._open(network)

    def _open(self, network: Network) -> None:
        """Early, because binding their sockets waits for RCU."""
        self._interfaces = network.interfaces
        conntrack.forget(
            address for interface in network.interfaces for address in interface.addresses
        )
        self._announcer = self._tidy.enter_context(contextlib.closing(link.Announcer(network)))
        for interface in network.interfaces:
            self._held.append(self._tidy.enter_context(contextlib.closing(HeldFrames(interface))))

    def bring(self, interface: int, frame: memoryview) -> None:
        """A frame that came for the container where it was."""
        self._late[interface].append(frame)

    def connect(self) -> None:
        """Links up, neighbours told. A container that cannot be reached is still better than none."""
        for held in self._held:
            held.keep()
        for interface in self._interfaces:
            try:
                link.set_link(interface.host_name, up=True)
            except NetworkError as error:
                self._log(str(error))
        self.announce()

    def take_frames(self) -> None:
        """Those that came until the network is unlocked: from here on they get through."""
        for index, held in enumerate(self._held):
            self._late[index] += held.take()

    def give_frames(self) -> None:
        """All that came while the container stood still."""
        for index, held in enumerate(self._held):
            held.give(self._late[index])

    def announce(self) -> None:
        """Tell the neighbours again."""
        if self._announcer is not None:
            try:
                self._announcer.announce()
            except OSError as error:
                self._log(f"the container's addresses could not be announced: {error}")

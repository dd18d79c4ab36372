"""The container's network on the target: made before the freeze, connected at the resume."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable

from checkpoint.criu import rescue
from checkpoint.errors import NetworkError
from checkpoint.network import conntrack, link, netns
from checkpoint.network.frames import FrameBuffer
from checkpoint.network.model import Interface, Network
from checkpoint.undo import Undo


class TargetNetwork:
    """The network of one container on the target, with its links down until `connect`.

    If `network` is given, its namespace and interfaces are made at once. If it is None, the engine
    makes the network later, and `adopt` takes it over. `undo` removes the namespace, `tidy` closes
    the sockets that only the migration needs. `log` takes a line for each failure that must not
    keep the container from running.
    """

    def __init__(
        self,
        network: Network | None,
        undo: Undo,
        tidy: contextlib.ExitStack,
        log: Callable[[str], None],
    ) -> None:
        #: The network, once it is there.
        self.network: Network | None = None
        #: It was made here, and not by the engine.
        self.is_own = network is not None
        self._interfaces: tuple[Interface, ...] = ()
        self._tidy, self._log = tidy, log
        self._announcer: link.Announcer | None = None
        self._held: list[FrameBuffer] = []
        self._late: defaultdict[int, list[bytes | memoryview]] = defaultdict(list)
        if network is not None:
            netns.create(network, undo)
            self._open(network)

    @classmethod
    def taken_over(
        cls, network: Network, tidy: contextlib.ExitStack, log: Callable[[str], None]
    ) -> TargetNetwork:
        """Return the network that a killed agent has made or adopted. Raises OSError."""
        found = cls(None, Undo(), tidy, log)
        found._open(network)
        return found

    def adopt(self, path: str) -> None:
        """Take over the network that the engine has made, and take its links down.

        `path` is its network namespace. Raises NetworkError, NotMovable or OSError.
        """
        network = netns.read(path)
        for interface in network.interfaces:
            link.set_link(interface.host_name, up=False)
        self._open(network)

    def _open(self, network: Network) -> None:
        """Open the sockets for announcements and frames, and forget old connections (conntrack.py).

        This is done early, because bind(2) on such a socket waits for RCU.
        """
        self.network, self._interfaces = network, network.interfaces
        conntrack.forget(
            address for interface in network.interfaces for address in interface.addresses
        )
        self._announcer = self._tidy.enter_context(contextlib.closing(link.Announcer(network)))
        for interface in network.interfaces:
            self._held.append(self._tidy.enter_context(contextlib.closing(FrameBuffer(interface))))

    def bring(self, interface: int, frame: bytes | memoryview) -> None:
        """Take a frame that came for the container on the source.

        `give_frames` gives it to the container. `interface` is the interface's index in the
        container's network.
        """
        self._late[interface].append(frame)

    def connect(self) -> None:
        """Keep the frames that come for the container, bring its links up, and announce it.

        A link that stays down is only logged: a container that cannot be reached is still better
        than none.
        """
        for held in self._held:
            held.keep()
        for interface in self._interfaces:
            try:
                link.set_link(interface.host_name, up=True)
            except NetworkError as error:
                self._log(str(error))
        self.announce()

    def withdraw(self) -> None:
        """Take the links down again: nobody is there to be reached, after all.

        Frames that were brought are forgotten. CRIU's lock, which a lost restore has left in the
        network, may be removed only after this: the kernel would answer for the container. Raises
        NetworkError or CommandFailed.
        """
        for interface in self._interfaces:
            link.set_link(interface.host_name, up=False)
        self._late.clear()
        assert self.network is not None
        rescue.unlock_network(self.network.path)

    def take_frames(self) -> None:
        """Take the frames that were kept until CRIU unlocks the network; later ones get through."""
        for index, held in enumerate(self._held):
            self._late[index] += held.take()

    def give_frames(self) -> None:
        """Give the container all frames that came for it while it was frozen, on either host."""
        for index, held in enumerate(self._held):
            held.give(self._late[index])

    def announce(self) -> None:
        """Announce the container's addresses to its neighbours; a failure is only logged."""
        if self._announcer is not None:
            try:
                self._announcer.announce()
            except OSError as error:
                self._log(f"the container's addresses could not be announced: {error}")

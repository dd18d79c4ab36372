"""The container's network on the source: read before the migration, removed after it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from checkpoint.engines.base import Container
from checkpoint.errors import NetworkError
from checkpoint.network import link, netns
from checkpoint.network.frames import FrameBuffer
from checkpoint.network.model import Interface, Network
from checkpoint.undo import Undo
from migrate.wire.values import OwnAddress
from transport.framing import MAX_PAYLOAD

#: The most that one Go message carries (LateFrame of migrate/wire/values.py, MAX_HEADER of
#: transport/framing.py).
MOST_INTERFACES, MOST_FRAMES = 64, 16384


class SourceNetwork:
    """The network that the container has on the source.

    `network` is None if the container owns its namespace, which CRIU moves as a whole. `for_target`
    is the network that the agent has to make; None if an engine makes it on the target. The parts
    of the network that this program removes once the container has left are held open until
    `close`. Raises NotMovable, NetworkError or OSError.
    """

    def __init__(self, container: Container) -> None:
        path = container.network_namespace
        self.network: Network | None = netns.read(path) if path else None
        self._engine_makes_it = container.engine_network
        self.for_target = None if self._engine_makes_it else self.network
        #: What is to be removed once the container has left.
        self.remaining = netns.parts_of(self.for_target) if self.for_target is not None else []
        self._held = Undo()
        for part in self.remaining:
            self._held.made(part)

    def close(self) -> None:
        """Release the namespace."""
        self._held.pop_all()

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        return self.network.interfaces if self.network else ()

    @property
    def macs_to_silence(self) -> tuple[str, ...]:
        """The MAC addresses that an engine on the target brings up by itself, before the resume."""
        return tuple(each.mac for each in self.interfaces) if self._engine_makes_it else ()

    def own_addresses(self) -> tuple[OwnAddress, ...]:
        """Return the IPv4 addresses on bridges, which another station could have on the target."""
        return tuple(
            OwnAddress(address.split("/")[0], interface.mac, interface.bridge)
            for interface in self.interfaces
            for address in interface.addresses
            if interface.bridge and ":" not in address
        )

    def take_links_down(self) -> None:
        """Take the host's ends of the container's links down, which takes milliseconds."""
        for interface in self.interfaces:
            with contextlib.suppress(NetworkError):  # the link went with the namespace
                link.set_link(interface.host_name, up=False)


class SourceFrames:
    """The frames that come for the container on the source while it is frozen.

    The sockets are opened on creation, which raises OSError. Frames are kept from `keep` to `take`
    (checkpoint/network/frames.py).
    """

    def __init__(self, network: SourceNetwork) -> None:
        with contextlib.ExitStack() as opened:
            self._buffers = [
                opened.enter_context(contextlib.closing(FrameBuffer(interface)))
                for interface in network.interfaces
            ]
            self._opened = opened.pop_all()

    @classmethod
    def handed_over(cls, descriptors: Sequence[int]) -> SourceFrames:
        """Return the frames that another process has kept, to take them."""
        found = cls.__new__(cls)
        found._buffers = [FrameBuffer.handed_over(fd) for fd in descriptors]
        found._opened = contextlib.ExitStack()
        for buffer in found._buffers:
            found._opened.callback(buffer.close)
        return found

    @property
    def descriptors(self) -> list[int]:
        """The descriptors by which another process can take the frames."""
        return [buffer.fileno() for buffer in self._buffers[:MOST_INTERFACES]]

    def close(self) -> None:
        self._opened.close()

    def keep(self) -> None:
        """Begin to keep frames. Raises OSError."""
        for buffer in self._buffers:
            buffer.keep()

    def take(self) -> list[tuple[int, bytes]]:
        """Return the frames that were kept, as (index of the interface, frame). Raises OSError.

        Frames that do not fit into one Go message are dropped; their senders send them again.
        """
        return fitting([buffer.take() for buffer in self._buffers[:MOST_INTERFACES]])


def fitting(kept: list[list[bytes]]) -> list[tuple[int, bytes]]:
    """Return the frames of each interface that one Go message carries, with the interface's index.

    `kept` has a list of frames for each interface.
    """
    found: list[tuple[int, bytes]] = []
    room = MAX_PAYLOAD
    for index, frames in enumerate(kept):
        for frame in frames:
            if len(frame) <= room and len(found) < MOST_FRAMES:
                room -= len(frame)
                found.append((index, frame))
    return found

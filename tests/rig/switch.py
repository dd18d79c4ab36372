"""The switch between the nodes: where a test's clients run, with the files of this machine."""

import ctypes
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike

from tests.rig import names, network
from tests.rig.place import Place

ANSWER_S = 20.0
CLONE_NEWNET = 0x40000000  # <linux/sched.h>
libc = ctypes.CDLL(None, use_errno=True)


class Switch(Place):
    """The switch's network namespace, from which clients reach nodes and containers by address."""

    def __init__(self, rig: str) -> None:
        self.netns = names.member(rig, names.SWITCH)
        self.address = names.SWITCH_ADDRESS

    def command(self, argv: Sequence[str | PathLike[str]]) -> Sequence[str | PathLike[str]]:
        """Return the command that becomes argv in the switch, so that argv gets its signals."""
        return ["nsenter", f"--net={network.netns_path(self.netns)}", "--", *argv]

    def ask(self, address: str, port: int, line: str) -> str:
        """Send one line over a TCP connection of its own, and return the line that comes back.

        The result is "" while nobody listens at that address. Raises OSError if the connection
        breaks later, or nothing comes within ANSWER_S.
        """
        with self._new_socket() as connection:
            connection.settimeout(ANSWER_S)
            try:
                connection.connect((address, port))
            except OSError:
                return ""
            connection.sendall(line.encode() + b"\n")
            with connection.makefile() as answers:
                return answers.readline().strip()

    def _new_socket(self) -> socket.socket:
        """Return a TCP socket of the switch's.

        A socket stays in the network namespace where it was made (network_namespaces(7)), so a
        thread that enters the switch, makes it and ends is enough.
        """

        def made_inside() -> socket.socket:
            netns = os.open(network.netns_path(self.netns), os.O_RDONLY)
            try:
                if libc.setns(netns, CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), self.netns)
            finally:
                os.close(netns)
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(made_inside).result()

"""Those who wait for a start of docker's: without one of them, docker would end the container.

`dockerd` has asked containerd for the start, containerd the container's shim, and the shim has run
the OCI runtime's `start` (oci_wrapper.py). When dockerd, the shim or `start` is gone, what docker
starts next removes the container (containerd's cleanupAfterDeadShim, moby's daemon/start.go).
"""

from __future__ import annotations

import contextlib
import os
import socket

from checkpoint.engines.docker import api
from checkpoint.errors import ConversationLost
from checkpoint.host import proc
from checkpoint.host.listener import peer_pid
from checkpoint.host.ready import ready

#: Keeps all events of docker's from the stream of events.
NO_EVENTS = '{"event": ["none"]}'


class Attending:
    """The processes that wait for the start whose connection to the agent is `start`.

    Raises EngineRefused if docker does not answer, and OSError or ProcError if the shim has ended.
    """

    def __init__(self, start: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            shim = proc.number(proc.path(peer_pid(start), "status"), "PPid")
            pidfd = os.pidfd_open(shim or 0)
            stack.callback(os.close, pidfd)
            # A stream without an end, which ends when dockerd does.
            events = stack.enter_context(api.download("/events", filters=NO_EVENTS))
            self._who = {
                events.fileno(): "dockerd",
                pidfd: "docker's shim",
                start.fileno(): "the start by docker's runtime",
            }
            self._stack = stack.pop_all()

    def check(self) -> None:
        """Raise ConversationLost if one of the processes has ended."""
        for fd in ready(*self._who, timeout_s=0):
            raise ConversationLost(f"{self._who[fd]} has ended")

    def close(self) -> None:
        """End the watch."""
        self._stack.close()

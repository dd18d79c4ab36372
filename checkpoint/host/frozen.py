"""The processes of a container that CRIU has frozen, and what others do to them meanwhile.

Whoever stops or kills a container in the freeze is told that it was done. The dump was made before
that and knows nothing of it, so the container must not be brought back on the target.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence

from checkpoint.errors import ContainerDisturbed
from checkpoint.host import proc
from checkpoint.host.processes import ENDED, STOPPED, state_of, tree_of, virtual_pid

#: Signals that ask a container to stop: kill(1)'s, the engines' defaults, and those that images
#: name as their own (STOPSIGNAL of nginx, PostgreSQL, Apache, systemd). Timers of the container may
#: send it other signals in the freeze, which say nothing.
STOP_SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGWINCH,
    signal.SIGRTMIN + 3,
)


class FrozenTasks:
    """The processes `pids` of a frozen container, as they are when this object is made."""

    def __init__(self, pids: Sequence[int]) -> None:
        """Note which stop signals wait for each process. Raises OSError and ProcError.

        A process that has ended already, and whose parent has not collected its status, is ignored.
        """
        self._waiting = {
            pid: waiting_stop_signals(pid) for pid in pids if state_of(pid) not in ENDED
        }

    def check(self) -> None:
        """Raise ContainerDisturbed unless every process is as it was: stopped, and not signalled.

        Raises OSError and ProcError.
        """
        for pid, before in self._waiting.items():
            if (state := state_of(pid)) in ENDED:
                raise ContainerDisturbed(f"process {pid} was killed while it was frozen")
            if state not in STOPPED:
                raise ContainerDisturbed(f"process {pid} runs although CRIU holds it frozen")
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for number in sorted(waiting_stop_signals(pid) - before):
                    name = signal.Signals(number).name if number < signal.SIGRTMIN else f"{number}"
                    raise ContainerDisturbed(
                        f"process {pid} was sent signal {name} while it was frozen, which the"
                        " restored container would never get"
                    )


class WaitingSignals:
    """The signals that wait for the processes of the frozen container whose init is `init`."""

    def __init__(self, init: int) -> None:
        self._init = init
        self._pids: dict[int, int] | None = None

    def of(self, number: int) -> int:
        """Return the mask of the signals that wait for a process (proc.pending_signals).

        `number` is its pid in the container's pid namespace. 0 if it is no process, but a thread of
        one, or has ended. The container must be frozen by the first call. Raises OSError and
        ProcError.
        """
        if self._pids is None:
            self._pids = {}
            for pid in tree_of(self._init):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    self._pids[virtual_pid(pid) or pid] = pid
        try:
            pid = self._pids[number]
            return proc.pending_signals(proc.read(pid, "status"))
        except (KeyError, FileNotFoundError, ProcessLookupError):
            return 0


def waiting_stop_signals(pid: int) -> set[int]:
    """Return the stop signals that a process was sent and has not got yet.

    Raises OSError and ProcError.
    """
    waiting = proc.pending_signals(proc.read(pid, "status"))
    return {number for number in STOP_SIGNALS if waiting >> (number - 1) & 1}

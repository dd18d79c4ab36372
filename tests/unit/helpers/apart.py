"""Processes that a test forks, which hang, are stopped and are killed, and the wait for them."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable

from checkpoint.host.ready import ready
from migrate.journal.book import process_record
from migrate.journal.records import ProcessRecord

#: A limit, in seconds, that only a failure reaches.
TIMEOUT_S = 20.0


class Apart:
    """A forked process that runs a function; its exit status is 0, or 1 if that has failed.

    `record` names the process in a journal. Close it at the end of the test: that kills it.
    """

    def __init__(self, run: Callable[[], object]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                run()
                status = 0
            except BaseException:  # noqa: BLE001  (the exit status tells the test)
                traceback.print_exc()
            finally:
                os._exit(status)
        self.pidfd = os.pidfd_open(self.pid)
        self.record: ProcessRecord = process_record(self.pid)
        self._code: int | None = None

    def stop(self) -> None:
        """Stop the process, and return when it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process, if it lives, and return when it is dead."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.exit_code()

    def lives(self, for_s: float = 0) -> bool:
        """Return whether the process lives, and does not end within `for_s` seconds."""
        return not ready(self.pidfd, timeout_s=for_s)

    def exit_code(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        if self._code is None:
            assert ready(self.pidfd, timeout_s=TIMEOUT_S), "it goes on"
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def close(self) -> None:
        self.kill()
        os.close(self.pidfd)


def soon(holds: Callable[[], object]) -> None:
    """Wait until a condition holds; nothing depends on how long that takes."""
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.001)

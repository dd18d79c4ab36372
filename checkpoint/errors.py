"""The errors of the work on one host.

CheckpointError
├── CommandFailed            a program that the tool ran ended badly
│   └── ReceiverFailed       rsync ended badly because of its end on the target, which writes
├── ContainerNotFound        the engine knows no container of that name
├── ContainerNotRunning      the container exists but does not run
├── ContainerDisturbed       somebody else killed or signalled the container while it was frozen
├── ContainerLocked          another task has the container, on its way out or in
├── NameInUse                a container of that name came into being on the target meanwhile
├── EngineRefused            docker or podman refused a request; carries the engine's words
├── NotMovable               something in the container cannot be dumped or rebuilt
├── ConversationLost         CRIU or the runtime ended before the point that was waited for
├── RestoreLost              a held restore is lost, and nothing of it has ever run
├── CriuFailed               CRIU reported a failure; carries the errors of its log
├── TrackingUnavailable      writes of a process cannot be tracked
├── CgroupUnavailable        the container has no cgroup that could be set
├── ProcError                a file of /proc is not what proc(5) says
├── DataInvalid              data from outside is not of its declared type (schema.py, shape.py)
├── ImageError               an image file, container image or stream of pages breaks its format
├── IncompleteIO             a file or stream ended before all bytes that were to be read
└── NetworkError             a namespace, link or address could not be read or made

Some errors never leave checkpoint.memory, and are no CheckpointError: Ended and NotNow of
uffd_copy.py, InjectError and its subclass NotHere of inject.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint.criu import known_errors


class CheckpointError(Exception):
    """The base of this package's errors."""


class CommandFailed(CheckpointError):
    """A program ended with a status that means failure.

    `argv`, `status` and `stderr` are the program's.
    """

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        self.argv = tuple(argv)
        self.status = status
        self.stderr = stderr.strip()
        last = self.stderr.splitlines()[-1] if self.stderr else "no message"
        super().__init__(f"{' '.join(self.argv[:3])} ended with status {status}: {last}")


class ReceiverFailed(CommandFailed):
    """The end of rsync on the target failed, by its own words or by those of the sending end."""


class ContainerNotFound(CheckpointError):
    """The engine knows no container of this name."""


class ContainerNotRunning(CheckpointError):
    """The container exists but does not run: it is created, paused or stopped, or was killed."""


class ContainerDisturbed(CheckpointError):
    """Somebody else has killed, resumed or signalled the container while it was frozen."""


class ContainerLocked(CheckpointError):
    """Another task has the lock of the container (checkpoint/host/lock.py).

    `holder` is that task's description of itself.
    """

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(holder)


class NameInUse(CheckpointError):
    """The target has another container of the name that the migrated container is to have."""


class EngineRefused(CheckpointError):
    """The engine did not obey a request, or gave no answer that could be read."""


class NotMovable(CheckpointError):
    """The container holds something that CRIU or the target cannot rebuild."""


class ConversationLost(CheckpointError):
    """The runtime or CRIU ended, or ran out of time, before the point that was waited for."""


class RestoreLost(CheckpointError):
    """A held restore is lost, and nothing of it has ever run: it can be made once more."""


class CriuFailed(CheckpointError):
    """CRIU reported a failure in `stage`. `log` has the error lines of its log, oldest first."""

    def __init__(self, stage: str, log: Sequence[str]) -> None:
        self.stage = stage
        self.log = tuple(log)
        lines = known_errors.quotable(self.log)
        # The first error is the cause; later ones are its consequences.
        why = "; ".join(lines[:3]) or "it left no error in its log"
        if known := known_errors.explained(self.log):
            why = f"{known.words} ({lines[0]})" if lines else known.words
        super().__init__(f"CRIU failed in {stage}: {why}")


class TrackingUnavailable(CheckpointError):
    """Writes of a process cannot be tracked.

    This is never fatal: the memory of that process is copied while it is frozen.
    """


class CgroupUnavailable(CheckpointError):
    """The container has no cgroup of the controller that was asked for."""


class ProcError(CheckpointError):
    """A file of /proc is not what proc(5) says."""


class DataInvalid(CheckpointError):
    """Data from outside is not of its declared type.

    `why` is the reason; `place` is the field, as in `.pieces[3].name`.
    """

    def __init__(self, why: str, place: str = "") -> None:
        self.why, self.place = why, place
        super().__init__(f"{place}: {why}" if place else why)

    def inside(self, place: str) -> DataInvalid:
        """Return this error as one of a larger value, in which this one's value is at `place`."""
        return DataInvalid(self.why, place + self.place)


class ImageError(CheckpointError):
    """An image file of CRIU's, a container image or a stream of pages breaks its format."""


class IncompleteIO(CheckpointError):
    """A file or stream ended before all bytes that were to be read (checkpoint/host/whole.py)."""


class NetworkError(CheckpointError):
    """A network namespace, link, address or route could not be read or made."""


def reason(error: BaseException) -> str:
    """Return what an error says; its class's name if it says nothing, as TimeoutError may."""
    return str(error) or type(error).__name__

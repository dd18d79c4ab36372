"""What can go wrong on one host.

CheckpointError
├── CommandFailed            a program we ran ended badly
│   └── ReceiverFailed       rsync did, because of its other end, which writes
├── ContainerNotFound        the runtime knows no container of that name
├── ContainerNotRunning      it does, but there is nothing to move
├── ContainerLocked          another task has the container, on its way out or in
├── NameInUse                a container of that name came into being on the target meanwhile
├── EngineRefused            docker or podman said no; carries its words
├── NotMovable               something in the container cannot be dumped or rebuilt
├── ConversationLost         CRIU or the runtime left before the point we waited for
├── CriuFailed               CRIU said so; carries the errors of its log
├── TrackingUnavailable      this process's writes cannot be tracked; its memory is copied while frozen
├── CgroupUnavailable        the container has no cgroup that could be set
├── ProcError                a file of /proc is not what proc(5) says
├── DataInvalid              data from outside is not of its declared type (schema.py, shape.py)
├── ImageError               an image or page stream is not what the format says
├── IncompleteIO             a file or stream ended before the bytes that were asked of it
└── NetworkError             a namespace, link or address could not be read or made

Three more never leave the modules that raise them: memory.uffd_fill.Ended and NotNow, memory.inject.InjectError with
its InCriticalSection.
"""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint.criu import known_errors


class CheckpointError(Exception):
    """Base of this package's errors."""


class CommandFailed(CheckpointError):
    """A program ended with a status it should not have had."""

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        self.argv = tuple(argv)
        self.status = status
        self.stderr = stderr.strip()
        last = self.stderr.splitlines()[-1] if self.stderr else "no message"
        super().__init__(f"{' '.join(self.argv[:3])} ended with status {status}: {last}")


class ReceiverFailed(CommandFailed):
    """rsync's end on the target failed, as that end says or as rsync says of it."""


class ContainerNotFound(CheckpointError):
    """The runtime has no state for this name."""


class ContainerNotRunning(CheckpointError):
    """The container exists but is created, paused or stopped."""


class ContainerLocked(CheckpointError):
    """Another task has the container (checkpoint/host/lock.py). `holder` is what that task says of itself."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(holder)


class NameInUse(CheckpointError):
    """A container of the name that one is to be taken in by is there, and is not this move's."""


class EngineRefused(CheckpointError):
    """The engine did not do what it was asked."""


class NotMovable(CheckpointError):
    """The container holds something that CRIU or the target cannot rebuild."""


class ConversationLost(CheckpointError):
    """The runtime or CRIU went away before reaching the point that was waited for."""


class CriuFailed(CheckpointError):
    """CRIU reported failure. `log` has the error lines of its log, oldest first."""

    def __init__(self, stage: str, log: Sequence[str]) -> None:
        self.stage = stage
        self.log = tuple(log)
        lines = known_errors.quotable(self.log)
        # The first error is the cause, what follows are its consequences.
        why = "; ".join(lines[:3]) or "it left no error in its log"
        if known := known_errors.explained(self.log):
            why = f"{known.words} ({lines[0]})" if lines else known.words
        super().__init__(f"CRIU failed in {stage}: {why}")


class TrackingUnavailable(CheckpointError):
    """Writes of a process cannot be tracked. Never fatal: the freeze then carries its memory."""


class CgroupUnavailable(CheckpointError):
    """The container has no cgroup of the controller that was asked for."""


class ProcError(CheckpointError):
    """A file of /proc is not what proc(5) says."""


class DataInvalid(CheckpointError):
    """Data from outside is not of its declared type. `place` is the field, as in `.pieces[3].name`."""

    def __init__(self, why: str, place: str = "") -> None:
        self.why, self.place = why, place
        super().__init__(f"{place}: {why}" if place else why)

    def inside(self, place: str) -> DataInvalid:
        """The same error, told by whoever holds the field in question."""
        return DataInvalid(self.why, place + self.place)


class ImageError(CheckpointError):
    """A CRIU image or page stream breaks its format."""


class IncompleteIO(CheckpointError):
    """A file or a stream ended before the bytes that were asked of it (checkpoint/host/whole.py)."""


class NetworkError(CheckpointError):
    """A network namespace, link, address or route could not be read or made."""

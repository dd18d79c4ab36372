"""What a user can be told. Each error says what happened, where the container runs, what to do next.

MigrateError
├── Refused                  nothing was changed on either host
│   ├── BadRequest           the command line
│   ├── NoSuchContainer, SeveralContainers, NotRunning, NotMovableError, OpenFileOutside, CannotPreCopy
│   ├── AlreadyMoving        another task has the container, on either host
│   ├── TargetUnreachable, AuthenticationFailed, UnknownHostKey, ChangedHostKey, RefusedHostKey
│   ├── NotRoot, MissingOnHost, CriuTooOld, CriuWireMismatch, MachineMismatch
│   └── NameTaken, PathTaken, NotEnoughMemory, AddressTaken, EngineObjects
├── RolledBack               the move failed; the container goes on where it was
│   ├── Interrupted          ... because the user said so
│   ├── MemoryDiffers        ... because memory on the target was not what the frozen container holds
│   ├── CannotTrack          ... because pre-copy was asked for and cannot work on this container
│   └── NotConverging        ... because it writes faster than its memory can be sent, and the policy is to abort
├── ContainerEnded           the container ended on the source while it was moved; it runs nowhere
├── Undecided                the source is dead, or dying, and it is not known that the target runs the container
├── ResumeFailed             ... and the target says that it could not resume it
├── LeftBehind               the move succeeded; something was not cleaned up
└── Defect                   this program failed where it has no answer to that

Nobody is told the following as they are; migrate/causes.py says as which of the above:

AgentFailed                  the target answered that it could not do what it was asked
AgentGone                    the channel to the target's agent ended
ProtocolError                migrate/message.py
InvalidMove                  migrate/state.py
"""

from __future__ import annotations

import enum
from collections.abc import Sequence


class Where(enum.Enum):
    """Which end of a move a host is."""

    SOURCE = "source"
    TARGET = "target"


def mib(size_bytes: int) -> str:
    """A size for people."""
    return f"{size_bytes / (1 << 20):,.0f} MiB"


class MigrateError(Exception):
    """Base. `advice` is what to do next.

    `cause_kind` is the class name of what went wrong first, on whichever host: the error's own, unless it was made
    of another one by migrate/causes.py. `defect`: that was nothing but a mistake in this program.
    """

    def __init__(self, what: str, *, where: str, advice: str) -> None:
        self.what = what
        self.where = where
        self.advice = advice
        self.cause_kind = type(self).__name__
        self.defect = False
        super().__init__(what, where, advice)

    def __str__(self) -> str:
        return f"{self.what}; {self.where}; {self.advice}"


class Refused(MigrateError):
    """Found before anything was changed."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what, where="nothing was changed", advice=advice)


class BadRequest(Refused):
    """The command line makes no sense."""


class NoSuchContainer(Refused):
    """No engine, or not the one asked for, knows the name."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason,
            "list the containers ('podman ps', 'runc list'): only those of this host can be moved",
        )


class SeveralContainers(Refused):
    """More than one engine has a container of that name."""

    def __init__(self, container: str, engines: Sequence[str]) -> None:
        super().__init__(
            f"{' and '.join(engines)} both have a container named {container!r} here",
            "say which by '--engine'",
        )


class NotRunning(Refused):
    """There is a container, but nothing that runs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "only a running container can be moved; start or resume it first")


class NotMovableError(Refused):
    """The container has something that cannot come along."""


class OpenFileOutside(Refused):
    """A process holds a file that is in none of the container's mounts."""

    def __init__(self, pid: int, fd: int, path: str) -> None:
        self.pid, self.fd, self.path = pid, fd, path
        super().__init__(
            f"process {pid} of the container has fd {fd} open on {path}, which is outside the container",
            "start the container with its standard streams on pipes or /dev/null, and no host files passed in",
        )


class CannotPreCopy(Refused):
    """`--mode pre-copy`, and these hosts cannot."""

    def __init__(self, why: str) -> None:
        super().__init__(f"no pre-copy: {why}", "move it with '--mode stop-copy' or 'auto' instead")


class AlreadyMoving(Refused):
    """Another task has the container, as `holder` says of itself, and its lock on `host` (checkpoint/host/lock.py)."""

    def __init__(self, host: str, holder: str) -> None:
        self.holder = holder
        super().__init__(
            f"the container is being moved already, as {host} knows: {holder}",
            "wait until that has ended; 'migratectl status' on its target tells of one that waits for a word",
        )


class TargetUnreachable(Refused):
    """No SSH server answered."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "check the name, the port and that sshd runs there")


class AuthenticationFailed(Refused):
    """The target's sshd took none of our keys."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason,
            "try 'ssh -v' to the same host; load the key into your agent or name it in ssh_config",
        )


class UnknownHostKey(Refused):
    """Nobody vouches for the target."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason, "compare the key's fingerprint, then connect once with ssh to record it"
        )


class ChangedHostKey(Refused):
    """The target shows another key than before."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason, "find out why; if the host was reinstalled, 'ssh-keygen -R' its old key"
        )


class RefusedHostKey(Refused):
    """The target shows a key that is revoked, or a certificate that does not hold."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "do not go on; ask whoever runs the host, or certifies its keys")


class NotRoot(Refused):
    """CRIU needs root on both ends. `where` is None of this host by itself."""

    def __init__(self, where: Where | None, host: str) -> None:
        self.side = where
        super().__init__(
            f"not root on {f'the {where.value} ' if where else ''}{host}",
            "run as root"
            if where is not Where.TARGET
            else "log in there as root (user@host, or User in ssh_config)",
        )


class MissingOnHost(Refused):
    """A program or module that the move needs is not there."""

    def __init__(self, where: Where, host: str, program: str, reason: str = "not found") -> None:
        self.side, self.program = where, program
        super().__init__(
            f"no usable {program} on the {where.value} {host} ({reason})",
            f"install {program} there",
        )


class CriuTooOld(Refused):
    """This CRIU does not work on this kernel."""

    def __init__(
        self, where: Where, host: str, found: str, kernel: str, needed: str, why: str
    ) -> None:
        self.side = where
        super().__init__(
            f"CRIU {found} on the {where.value} {host} is too old for its kernel {kernel}: {why}",
            f"install CRIU {needed} or newer there",
        )


class CriuWireMismatch(Refused):
    """The two CRIUs do not read each other's pages."""

    def __init__(self, source: str, target: str) -> None:
        super().__init__(
            f"CRIU {source} on the source and {target} on the target write memory differently (it changed in 4.2)",
            "install the same CRIU version on both hosts",
        )


class MachineMismatch(Refused):
    """The processors run different instructions."""

    def __init__(self, source: str, host: str, target: str) -> None:
        super().__init__(
            f"the source is {source} and {host} is {target}",
            "choose a target of the same architecture",
        )


class NameTaken(Refused):
    """The target already has a container of that name."""

    def __init__(self, container: str, host: str, runtime: str) -> None:
        super().__init__(
            f"{host} already has a {runtime} container named {container!r}",
            f"name another host if it is this one, or remove it there ('{runtime} delete')",
        )


class PathTaken(Refused):
    """The target has something else where the container's files must go."""

    def __init__(self, path: str, host: str) -> None:
        super().__init__(
            f"{path} exists on {host} and was not left there by an earlier move, or somebody uses it",
            "move it away, or share it",
        )


class NotEnoughMemory(Refused):
    """The target could not hold the container and its images."""

    def __init__(self, host: str, needed_bytes: int, available_bytes: int) -> None:
        self.needed_bytes, self.available_bytes = needed_bytes, available_bytes
        super().__init__(
            f"{host} has {mib(available_bytes)} of RAM to give, this move needs {mib(needed_bytes)} there",
            "free memory on the target or choose another one",
        )


class AddressTaken(Refused):
    """Somebody else answers for the container's address where it is to go."""

    def __init__(self, address: str, mac: str, host: str) -> None:
        super().__init__(
            f"address {address} is already in use by {mac} on the network of {host}",
            "free the address or move elsewhere",
        )


class EngineObjects(Refused):
    """The target's engine has something else where the container's belongs, or lacks what it needs."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(
            f"{host} cannot take it in: {reason}", f"fix that on {host}, or choose another host"
        )


class RolledBack(MigrateError):
    """The move failed before the point of no return, and the container was seen to live on the source."""

    def __init__(
        self, what: str, advice: str, where: str = "the container runs on the source, as before"
    ) -> None:
        super().__init__(what, where=where, advice=advice)


class Interrupted(RolledBack):
    """Ctrl-C, SIGTERM or SIGHUP. `signal_number` is which."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__("interrupted", "run the command again when it suits")


class NotConverging(RolledBack):
    """The freeze would take longer than allowed, and more rounds would not shorten it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "allow more ('--max-downtime'), or see '--on-no-converge'")


class MemoryDiffers(RolledBack):
    """The proof of memory failed: what the target was about to restore is not what was frozen."""

    def __init__(self, what: str) -> None:
        super().__init__(
            what, "please report this with the report of the move (--json); another try may succeed"
        )


class CannotTrack(RolledBack):
    """`--mode pre-copy`, and no process of the container lets its writes be tracked."""

    def __init__(self) -> None:
        super().__init__(
            "no process's writes can be tracked",
            "move it with '--mode stop-copy' or 'auto' instead",
        )


class ContainerEnded(MigrateError):
    """The container's init was found dead before the move had killed it."""

    def __init__(
        self, what: str, advice: str = "start it again on the source if it is wanted"
    ) -> None:
        super().__init__(
            f"the container ended on the source while it was moved ({what})",
            where="the container runs nowhere",
            advice=advice,
        )


class Undecided(MigrateError):
    """The source was killed, and the target has not said that it runs the container.

    `told_go`: the target was told to resume it, or may have been. It holds the container or runs it, and drops it in
    neither case.
    """

    def __init__(
        self, migration_id: str, host: str, reason: str, advice: str, *, told_go: bool = True
    ) -> None:
        self.migration_id = migration_id
        held = f"the container is held on {host}, restored but not running"
        super().__init__(
            reason,
            where=f"{held}, or runs there by now" if told_go else held,
            advice=f"{advice}; the source keeps the container, stopped, until it is removed there",
        )


class ResumeFailed(MigrateError):
    """The target had its GO, and CRIU or the runtime failed after it."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(
            f"{host} could not resume the container: {reason}",
            where="the source keeps the container, stopped",
            advice=f"look at the container on {host}, where it may run all the same; only if it does not,"
            " start it afresh on the source",
        )


class LeftBehind(MigrateError):
    """The container runs on the target; cleaning up behind it failed."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(
            f"moved, but not all was cleaned up: {reason}",
            where=f"the container runs on {host}",
            advice="nothing needs to be done for the container itself",
        )


class Defect(MigrateError):
    """This program failed in a way that it does not know. `state` is the last one of the move (migrate/state.py)."""

    def __init__(self, error: BaseException, state: str, host: str) -> None:
        super().__init__(
            f"a defect in this program: {type(error).__name__}: {error}",
            where=f"the container is on the source or on {host} (the move was {state!r})",
            advice="look for it on both, and please report this",
        )
        self.cause_kind, self.__cause__ = type(error).__name__, error
        self.defect = True


class AgentFailed(Exception):
    """The agent answered a request with Failed. `kind` is causes.kind_of the error on the target."""

    def __init__(self, kind: str, text: str, detail: Sequence[str]) -> None:
        self.kind, self.text, self.detail = kind, text, tuple(detail)
        super().__init__(text)


class AgentGone(Exception):
    """The channel to the agent ended. `said` is the last of its standard error, `status` its exit status."""

    def __init__(self, reason: str, said: str, status: int | None) -> None:
        self.said, self.status = said, status
        super().__init__(f"{reason}{': ' + said if said else ''}")

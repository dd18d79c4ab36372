"""The errors that a user is told: what happened, where the container runs, what to do next.

MigrateError
├── Refused                  nothing was changed on either host
│   ├── BadRequest           the command line makes no sense
│   ├── NoSuchContainer, SeveralContainers, NotRunning, NotMovableError
│   ├── OpenFileOutside, CannotPreCopy, WouldFreezeTooLong
│   ├── AlreadyMoving        another task has locked the container, on either host
│   ├── TargetUnreachable, AuthenticationFailed, UnknownHostKey, ChangedHostKey, RefusedHostKey
│   ├── NotRoot, MissingOnHost, CriuTooOld, CriuWireMismatch, MachineMismatch
│   └── NameTaken, PathTaken, NotEnoughMemory, AddressTaken, RefusedByEngine
├── RolledBack               the migration failed; the container is on the source as before
│   ├── Interrupted          ... because of Ctrl-C, SIGTERM or SIGHUP
│   ├── MemoryDiffers        ... because memory on the target was not the frozen container's
│   ├── FrozenTooLong        ... because the freeze took longer than --max-frozen
│   ├── CannotTrack          ... because pre-copy was requested and cannot work on this container
│   └── NotConverging        ... because writes outrun the link, and the policy is to abort
├── ContainerEnded           the container ended on the source before the kill; it runs nowhere
├── Undecided                the source is dead, or dying; the target has not said that it resumed
├── ResumeFailed             the source is dead; the target says that it could not resume
│   └── LostThere            ... because nothing of the container is left there
├── LeftBehind               the migration succeeded; something was not cleaned up
└── Defect                   an unexpected failure of this program

migrate/decisions/causes.py makes them of the errors that a user is never told: those of
migrate/wire/failures.py, ProtocolError (migrate/wire/message.py) and InvalidTransition
(migrate/decisions/state.py).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from migrate.text import size


class Side(enum.Enum):
    """The role of a host in a migration."""

    SOURCE = "source"
    TARGET = "target"


class MigrateError(Exception):
    """The base class of the errors that a user is told. `advice` is what to do next.

    `cause_kind` is the class name of the first failure, on either host: the error's own, unless
    decisions/causes.py made the error of another. `defect`: it was a mistake in this program.
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
    """The migration was refused before anything was changed."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what, where="nothing was changed", advice=advice)


class BadRequest(Refused):
    """The command line makes no sense."""


class NoSuchContainer(Refused):
    """No engine, or not the one requested, has a container of that name."""

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
    """The container exists, but does not run."""

    def __init__(self, reason: str) -> None:
        # A target may hold the container of a move that was cut off: started again, it would run
        # twice once that target is told to go on.
        super().__init__(
            reason,
            "only a running container can be moved; if an earlier move of it was cut off, ask its "
            "target by 'migratectl status' there; else start or resume it first",
        )


class NotMovableError(Refused):
    """The container has something that cannot be migrated."""


class OpenFileOutside(Refused):
    """A process of the container has a file open that is in none of the container's mounts."""

    def __init__(self, pid: int, fd: int, path: str) -> None:
        self.pid, self.fd, self.path = pid, fd, path
        super().__init__(
            f"process {pid} of the container has fd {fd} open on {path}, "
            "which is outside the container",
            "start the container with its standard streams on pipes or /dev/null, "
            "and no host files passed in",
        )


class CannotPreCopy(Refused):
    """`--mode pre-copy` was requested, and these hosts cannot do it."""

    def __init__(self, why: str) -> None:
        super().__init__(f"no pre-copy: {why}", "move it with '--mode stop-copy' or 'auto' instead")


class WouldFreezeTooLong(Refused):
    """The freeze would take longer than allowed, as is known before anything is sent."""

    def __init__(self, prediction: str, allowed_ms: int) -> None:
        super().__init__(
            f"{prediction}; {allowed_ms} ms are allowed",
            "allow more ('--max-downtime'), or see '--on-no-converge'",
        )


class AlreadyMoving(Refused):
    """Another task, `holder`, has locked the container on `host` (checkpoint/host/lock.py)."""

    def __init__(self, host: str, holder: str) -> None:
        self.holder = holder
        super().__init__(
            f"the container is being moved already, as {host} knows: {holder}",
            "wait until that has ended; a target that holds a container for a move whose source "
            "is gone is told what to do by 'migratectl recover'",
        )


class TargetUnreachable(Refused):
    """There is no SSH connection to the target, or its agent could not be started."""

    def __init__(
        self, reason: str, advice: str = "check the name, the port and that sshd runs there"
    ) -> None:
        super().__init__(reason, advice)


class AuthenticationFailed(Refused):
    """The target's sshd accepted none of the user's keys."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason,
            "try 'ssh -v' to the same host; load the key into your agent or name it in ssh_config",
        )


class UnknownHostKey(Refused):
    """No known_hosts file has the target's host key."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason, "compare the key's fingerprint, then connect once with ssh to record it"
        )


class ChangedHostKey(Refused):
    """The target's host key is another one than known_hosts has."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason, "find out why; if the host was reinstalled, 'ssh-keygen -R' its old key"
        )


class RefusedHostKey(Refused):
    """The target's host key is revoked, or its certificate is not valid."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "do not go on; ask whoever runs the host, or certifies its keys")


class NotRoot(Refused):
    """CRIU needs root on both hosts. `where` is None for migratectl, which needs root by itself."""

    def __init__(self, where: Side | None, host: str) -> None:
        self.side = where
        super().__init__(
            f"not root on {f'the {where.value} ' if where else ''}{host}",
            "run as root"
            if where is not Side.TARGET
            else "log in there as root (user@host, or User in ssh_config)",
        )


class MissingOnHost(Refused):
    """A program or module that the migration needs is missing on a host."""

    def __init__(self, where: Side, host: str, program: str, reason: str = "not found") -> None:
        self.side, self.program = where, program
        super().__init__(
            f"no usable {program} on the {where.value} {host} ({reason})",
            f"install {program} there",
        )


class CriuTooOld(Refused):
    """The CRIU of a host is too old for the kernel of that host."""

    def __init__(
        self, where: Side, host: str, found: str, kernel: str, *, needed: str, why: str
    ) -> None:
        self.side = where
        super().__init__(
            f"CRIU {found} on the {where.value} {host} is too old for its kernel {kernel}: {why}",
            f"install CRIU {needed} or newer there",
        )


class CriuWireMismatch(Refused):
    """The CRIUs of the two hosts do not read each other's pages."""

    def __init__(self, source: str, target: str) -> None:
        super().__init__(
            f"CRIU {source} on the source and {target} on the target write memory differently "
            "(it changed in 4.2)",
            "install the same CRIU version on both hosts",
        )


class MachineMismatch(Refused):
    """The processors of the two hosts run different instructions."""

    def __init__(self, source: str, host: str, target: str) -> None:
        super().__init__(
            f"the source is {source} and {host} is {target}",
            "choose a target of the same architecture",
        )


class NameTaken(Refused):
    """The target already has a container of that name."""

    def __init__(self, container: str, host: str, engine: str) -> None:
        remove = "delete" if engine in ("runc", "crun") else "rm"
        super().__init__(
            f"{host} already has a {engine} container named {container!r}",
            f"name another host if it is this one, or remove it there ('{engine} {remove}')",
        )


class PathTaken(Refused):
    """The target has other files where the container's files must go."""

    def __init__(self, path: str, host: str) -> None:
        super().__init__(
            f"{path} exists on {host} and was not left there by an earlier move, "
            "or somebody uses it",
            "move that away, or have both hosts share the path",
        )


class NotEnoughMemory(Refused):
    """The target does not have the RAM for the container and its images."""

    def __init__(self, host: str, needed_bytes: int, available_bytes: int) -> None:
        self.needed_bytes, self.available_bytes = needed_bytes, available_bytes
        there, needed = size(available_bytes), size(needed_bytes)
        super().__init__(
            f"{host} has {there} of RAM to give, this move needs {needed} there",
            "free memory on the target or choose another one",
        )


class AddressTaken(Refused):
    """Another station uses the container's address on the target's network."""

    def __init__(self, address: str, mac: str, host: str) -> None:
        super().__init__(
            f"address {address} is already in use by {mac} on the network of {host}",
            "free the address or move elsewhere",
        )


class RefusedByEngine(Refused):
    """The target's engine cannot take the container in: an object is missing or in the way."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(
            f"{host} cannot take it in: {reason}", f"fix that on {host}, or choose another host"
        )


class RolledBack(MigrateError):
    """The migration failed before the kill, and the container was seen to live on the source."""

    def __init__(
        self, what: str, advice: str, where: str = "the container runs on the source, as before"
    ) -> None:
        super().__init__(what, where=where, advice=advice)


class Interrupted(RolledBack):
    """A signal, `signal_number`, interrupted the migration: Ctrl-C, SIGTERM or SIGHUP."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__("interrupted", "run the command again when it suits")


class NotConverging(RolledBack):
    """The freeze would take longer than allowed, and more rounds would not shorten it."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"not frozen: {reason}", "allow more ('--max-downtime'), or see '--on-no-converge'"
        )


class FrozenTooLong(RolledBack):
    """The freeze took longer than --max-frozen allows, and was ended."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"the freeze was not over after {limit_s:g} s",
            "see what was slow ('--debug'); allow more ('--max-frozen') if it only takes longer",
        )


class MemoryDiffers(RolledBack):
    """The proof failed: the target was about to restore other memory than was frozen."""

    def __init__(self, what: str) -> None:
        super().__init__(
            what, "please report this with the report of the move (--json); another try may succeed"
        )


class CannotTrack(RolledBack):
    """`--mode pre-copy` was requested, and no process's writes can be tracked."""

    def __init__(self) -> None:
        super().__init__(
            "no process's writes can be tracked",
            "move it with '--mode stop-copy' or 'auto' instead",
        )


class ContainerEnded(MigrateError):
    """The container's init was found dead before the migration killed it.

    `started_again`: its engine has started it there once more, as its restart policy wants.
    """

    def __init__(self, what: str, *, started_again: bool = False) -> None:
        what = f"the container ended on the source while it was moved ({what})"
        where, advice = "the container runs nowhere", "start it again on the source if it is wanted"
        if started_again:
            where, advice = "its engine has started it there again", "find out why it ended"
        super().__init__(what, where=where, advice=advice)


class Undecided(MigrateError):
    """The kill was tried, and the target has not said that it runs the container.

    `told_go`: GO was sent to the target, or may have been: the target holds the container, or runs
    it. Without GO the target holds it. In neither case does the target drop the container.
    `if_nobody_holds_it` is the error to report if it turns out that nobody does.
    """

    if_nobody_holds_it: MigrateError | None = None

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
    """CRIU, the runtime or the engine failed on the target after GO."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(
            f"{host} could not resume the container: {reason}",
            where="the source keeps the container, stopped",
            advice=f"look at the container on {host}, where it may run all the same; "
            "only if it does not, start it afresh on the source",
        )


class LostThere(ResumeFailed):
    """The target has never run the container, and does not hold it any more."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(host, reason)
        self.what = f"what the container had in memory is lost on {host}: {reason}"
        self.where = "its files, and what its engine knows of it, are on the source"
        self.advice = "start it afresh there, unless the engine does so by its restart policy"


class LeftBehind(MigrateError):
    """The container runs on the target, and not everything was cleaned up."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(
            f"moved, but not all was cleaned up: {reason}",
            where=f"the container runs on {host}",
            advice="the next move or 'migratectl recover' tries again to remove what is named;"
            " the container itself needs nothing",
        )


class Defect(MigrateError):
    """An unexpected failure of this program; `state` is the last one (decisions/state.py)."""

    def __init__(self, error: BaseException, state: str, host: str) -> None:
        super().__init__(
            f"a defect in this program: {type(error).__name__}: {error}",
            where="nothing was changed"
            if state == "refused"
            else f"the container is on the source or on {host} (the move was {state!r})",
            advice="please report this"
            if state == "refused"
            else "look for it on both, and please report this",
        )
        self.cause_kind, self.__cause__ = type(error).__name__, error
        self.defect = True

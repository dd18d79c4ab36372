"""One table of what may go wrong, on either host, and what the user is told of it. No I/O here.

Code below migrate/phases/ raises errors of its own package (checkpoint/errors.py,
transport/errors.py), Python's, or AgentFailed with the name of an error that was raised on the
target. Which MigrateError the user is told depends on how far the migration had got; only this
module decides it. An error that is not in the table is a defect of this program.
"""

from __future__ import annotations

import builtins
import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from checkpoint import errors as checkpoint
from checkpoint.criu import known_errors
from migrate.decisions.state import InvalidTransition
from migrate.errors import (
    AlreadyMoving,
    AuthenticationFailed,
    ChangedHostKey,
    MigrateError,
    NoSuchContainer,
    NotMovableError,
    NotRunning,
    Refused,
    RefusedByEngine,
    RefusedHostKey,
    ResumeFailed,
    RolledBack,
    Side,
    TargetUnreachable,
    UnknownHostKey,
)
from migrate.wire.failures import AgentEnded, AgentFailed, AgentGone
from migrate.wire.message import ProtocolError
from transport import errors as transport

E = TypeVar("E", bound=MigrateError)
LOOK = "mend what the reason names, then try again ('--debug' shows each step)"
REPORT = "this is a defect in this program: please report it, with the logs"
#: The most characters that are told of an error's text.
MOST_TEXT = 600
FREE_SPACE = (
    "free space on that host (/run, /var/lib and where the container's files are), "
    "or choose another one"
)
FREE_MEMORY = "free memory on that host, or choose another one"


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The first failure: what went wrong, on which side, and what to do next.

    `kind` names the failure for programs. `side` is the host that failed, None for the link between
    the hosts. `defect`: the failure is a mistake in this program.
    """

    kind: str
    text: str
    side: Side | None
    advice: str
    defect: bool


@dataclass(frozen=True, kw_only=True)
class Telling:
    """One row of the table: how one kind of failure is reported to the user.

    `advice` is what to do next. `refused` makes the error for a failure before anything was
    changed, from the cause and the target's name.
    """

    advice: str
    refused: Callable[[Cause, str], Refused]
    defect: bool = False


def _refused(cause: Cause, host: str) -> Refused:
    return Refused(f"preflight failed {_on(cause, host)}: {cause.text}", cause.advice)


def _by_engine(cause: Cause, host: str) -> Refused:
    return RefusedByEngine(host, cause.text) if cause.side is Side.TARGET else _refused(cause, host)


def _by(kind: Callable[[str], Refused]) -> Callable[[Cause, str], Refused]:
    """Return a maker of `kind`, for failures of the source or on the way to the target.

    A failure on the target itself is reported as Refused.
    """
    return lambda cause, host: (
        _refused(cause, host) if cause.side is Side.TARGET else kind(cause.text)
    )


def _moving(cause: Cause, host: str) -> Refused:
    return AlreadyMoving(host if cause.side is Side.TARGET else "the source", cause.text)


def _no_agent(cause: Cause, host: str) -> Refused:
    return TargetUnreachable(
        f"the agent on {host} could not be started or asked: {cause.text}",
        f"see that 'ssh {host} python3 --version' prints the version and nothing else",
    )


def _not_movable(cause: Cause, _: str) -> Refused:
    return NotMovableError(cause.text, cause.advice)


def _telling(advice: str, refused: Callable[[Cause, str], Refused] = _refused) -> Telling:
    return Telling(advice=advice, refused=refused)


DEFECT = Telling(advice=REPORT, refused=_refused, defect=True)
_NOT_OURS = Telling(
    advice="find out what answers on that host before you trust it; "
    f"if it is the agent that this program sent there, {REPORT}",
    refused=_refused,
    defect=True,
)
_AGAIN = _telling(f"try again; if that fails, too, {REPORT}")
_BROKEN_LINK = _telling(
    "check the network between the hosts, then try again", _by(TargetUnreachable)
)
TABLE: dict[type[BaseException], Telling] = {
    checkpoint.CheckpointError: _telling(LOOK),
    checkpoint.CommandFailed: _telling(
        "mend what that program complains of, then try again ('--debug' shows each step)"
    ),
    checkpoint.ReceiverFailed: _telling("mend what rsync complains of, then try again"),
    checkpoint.ContainerNotFound: _telling("see whether it still runs", _by(NoSuchContainer)),
    checkpoint.ContainerNotRunning: _telling("see whether it still runs", _by(NotRunning)),
    checkpoint.ContainerDisturbed: _telling(
        "see what was done to the container; move it again if it is still to be moved"
    ),
    checkpoint.ContainerLocked: _telling("wait until that has ended", _moving),
    checkpoint.NameInUse: _telling(
        "see what that container is; rename it or remove it there, or choose another host"
    ),
    checkpoint.EngineRefused: _telling(
        "mend what the engine complains of, then try again", _by_engine
    ),
    checkpoint.NotMovable: _telling(
        "change that about the container, then try again (docs/what-moves.md has what moves)",
        _not_movable,
    ),
    checkpoint.ConversationLost: _telling("see the logs of CRIU and the runtime"),
    checkpoint.RestoreLost: _telling("see the logs of CRIU and the runtime"),
    checkpoint.CriuFailed: _telling("see CRIU's log"),
    checkpoint.TrackingUnavailable: _telling("move it with '--mode stop-copy'"),
    checkpoint.CgroupUnavailable: _telling(LOOK),
    checkpoint.ProcError: _AGAIN,
    checkpoint.DataInvalid: _AGAIN,
    checkpoint.IncompleteIO: _AGAIN,
    checkpoint.ImageError: _AGAIN,
    checkpoint.NetworkError: _telling("see the container's links and addresses ('ip address')"),
    transport.TransportError: _BROKEN_LINK,
    transport.ConnectError: _BROKEN_LINK,
    transport.Unreachable: _BROKEN_LINK,
    transport.AuthenticationRefused: _telling(
        "see 'ssh -v' to the same host", _by(AuthenticationFailed)
    ),
    transport.HostKeyUnknown: _telling("record the target's host key", _by(UnknownHostKey)),
    transport.HostKeyChanged: _telling("find out why its host key changed", _by(ChangedHostKey)),
    transport.HostKeyRefused: _telling(
        "ask whoever runs the host, or certifies its key", _by(RefusedHostKey)
    ),
    transport.StreamError: _BROKEN_LINK,
    transport.EndOfStream: _BROKEN_LINK,
    transport.IncompleteFrame: _BROKEN_LINK,
    transport.PeerEnded: _BROKEN_LINK,
    transport.TooSlow: _BROKEN_LINK,
    transport.FrameInvalid: _telling(
        "see that 'ssh HOST true' prints nothing: the agent is spoken to over that"
    ),
    AgentGone: _telling(_BROKEN_LINK.advice, _no_agent),
    AgentEnded: _telling(
        "see whether that host was restarted, or had no memory, then try again", _no_agent
    ),
    ProtocolError: _NOT_OURS,
    InvalidTransition: DEFECT,
    OSError: _telling(LOOK),
    MemoryError: _telling(FREE_MEMORY),
}
#: Errors of the system are kinds of their own, whichever class they come in. The words are
#: strerror(3)'s; podman and docker, which are written in Go, begin them with a small letter.
BY_ERRNO = {errno.ENOSPC: "NoSpace", errno.EDQUOT: "NoSpace", errno.ENOMEM: "NoMemory"}
BY_WORDS = {
    "No space left on device": "NoSpace",
    "Disk quota exceeded": "NoSpace",
    "Cannot allocate memory": "NoMemory",
}
KINDS: Mapping[str, Telling] = {
    **{kind.__name__: telling for kind, telling in TABLE.items()},
    "NoSpace": _telling(FREE_SPACE),
    "NoMemory": _telling(FREE_MEMORY),
}
#: Errors that quote another program, whose words may have the system's error in them.
QUOTING = (checkpoint.CommandFailed, checkpoint.CriuFailed, checkpoint.EngineRefused)


def kind_of(error: BaseException) -> str:
    """Return the kind of an error, for most the class name. The agent puts the kind into Failed."""
    if isinstance(error, AgentFailed):
        return error.kind
    if isinstance(error, MigrateError):
        return error.cause_kind
    if isinstance(error, OSError) and error.errno in BY_ERRNO:
        return BY_ERRNO[error.errno]
    if isinstance(error, QUOTING):
        quoted = error.stderr if isinstance(error, checkpoint.CommandFailed) else str(error)
        return next(
            (kind for words, kind in BY_WORDS.items() if words.lower() in quoted.lower()),
            type(error).__name__,
        )
    return type(error).__name__


def telling_of(kind: str) -> Telling:
    """Return the table's row for a kind; for an unknown name that of a defect.

    A subclass of Python's OSError has the row of OSError.
    """
    if (found := KINDS.get(kind)) is not None:
        return found
    python = getattr(builtins, kind, None)
    return TABLE[OSError] if isinstance(python, type) and issubclass(python, OSError) else DEFECT


def cause_of(error: BaseException) -> Cause:
    """Return the cause of an error: its own words, with the advice of its row in the table.

    A line of CRIU's log that is known (checkpoint/criu/known_errors.py) has advice of its own.
    """
    kind = kind_of(error)
    if isinstance(error, MigrateError):
        return Cause(
            kind=kind, text=error.what, side=Side.SOURCE, advice=error.advice, defect=error.defect
        )
    telling = telling_of(kind)
    text, advice = str(error) or kind, telling.advice
    log: Sequence[str] = ()
    if isinstance(error, AgentFailed):
        log = error.detail
    elif isinstance(error, checkpoint.CriuFailed):
        log = error.log
    if known := known_errors.explained(log):
        advice = known.cure
    if telling.defect:
        text = f"{kind}: {error}"
    if len(text) > MOST_TEXT:  # a container may choose how long a path in it is
        text = f"{text[: MOST_TEXT // 2]}[...]{text[-MOST_TEXT // 2 :]}"
    return Cause(kind=kind, text=text, side=_side(error), advice=advice, defect=telling.defect)


def refused(error: Exception, host: str) -> Refused:
    """Return what the user is told of an error that came before anything was changed."""
    if isinstance(error, Refused):
        return error
    cause = cause_of(error)
    return _marked(telling_of(cause.kind).refused(cause, host), cause)


def rolled_back(error: BaseException, left: Sequence[str], where: str) -> MigrateError:
    """Return what the user is told of an error that came before the kill.

    `left` is what the roll-back did not undo, with the cures. `where` is how the container was
    found on the source.
    """
    if isinstance(error, RolledBack):  # an error that says by itself what the user is told
        error.where, error.advice = where, "; ".join([*left, error.advice])
        return error
    cause = cause_of(error)
    return _marked(RolledBack(failure(error), "; ".join([*left, cause.advice]), where), cause)


def resume_failed(error: BaseException, host: str) -> MigrateError:
    """Return what the user is told when the target fails to obey GO."""
    cause = cause_of(error)
    return _marked(ResumeFailed(host, cause.text), cause)


def failure(error: BaseException) -> str:
    """Return one sentence that says what failed and on which host."""
    cause = cause_of(error)
    if isinstance(error, MigrateError):
        return cause.text
    who = {
        Side.SOURCE: "the source failed",
        Side.TARGET: "the target failed",
        None: "the link failed",
    }[cause.side]
    return f"{who}: {cause.text}"


def marked(told: MigrateError, error: BaseException) -> MigrateError:
    """Return `told`, marked as caused by `error`."""
    return _marked(told, cause_of(error))


def _marked(told: E, cause: Cause) -> E:
    told.cause_kind, told.defect = cause.kind, cause.defect
    return told


def _side(error: BaseException) -> Side | None:
    # A ProtocolError is raised for what the target said.
    if isinstance(error, AgentEnded | AgentFailed | checkpoint.ReceiverFailed | ProtocolError):
        return Side.TARGET
    return None if isinstance(error, AgentGone | transport.TransportError) else Side.SOURCE


def _on(cause: Cause, host: str) -> str:
    return {
        Side.SOURCE: "on the source",
        Side.TARGET: f"on {host}",
        None: f"on the way to {host}",
    }[cause.side]

"""The interposer: it stands between a container runtime and CRIU, and passes their messages on.

Every OCI runtime starts the `criu` found on PATH as `criu swrk FD` and speaks protobuf RPC (CRIU
images/rpc.proto) over a SEQPACKET socket. The shim (shim.py) hands that socket to the Interposer,
which relays the conversation message by message to the real CRIU. A `Role` edits requests, and
holds the conversation at a request or a notification until its owner decides how it goes on.

If the interposer's process dies, both sockets close. CRIU takes that as a failed notification: it
thaws the tasks that it froze, or kills the tasks that it restored. The runtime sees that its peer
is gone. So no conversation is left half done.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from checkpoint.criu import rpc
from checkpoint.errors import ConversationLost
from checkpoint.host import proc
from checkpoint.host.listener import Listener, peer_pid
from checkpoint.host.ready import ready

log = logging.getLogger(__name__)
MAX_MESSAGE = 1 << 22
MAX_FDS = 8
#: The fields of a request that name directories by descriptor numbers of the runtime. CRIU looks
#: these numbers up in /proc/PID/fd of the process that made its socket (criu/cr-service.c), which
#: is the interposer's. So the interposer opens the directories and puts its own numbers in.
DIRECTORY_FIELDS = ("images_dir_fd", "work_dir_fd")


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """The name of one message of a conversation, and when it passed (CLOCK_MONOTONIC)."""

    at_ns: int
    name: str


class Gate:
    """A point at which a conversation waits until it is told to go on.

    The conversation's thread calls `arrive` and blocks. The owner's thread calls `wait_reached`,
    then `open` (the conversation goes on) or `refuse` (CRIU is told that the step failed; a held
    request is never sent).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._condition = threading.Condition()
        self._reached = False
        self._verdict: bool | None = None
        self._lost: str | None = None

    def arrive(self) -> bool:
        """Block until the gate is opened (True) or refused (False), and return which."""
        with self._condition:
            self._reached = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._verdict is not None)
            return bool(self._verdict)

    def wait_reached(self, timeout_s: float) -> None:
        """Block until the conversation has arrived at this gate.

        Raises ConversationLost when the conversation ended first, or did not arrive within
        `timeout_s` seconds.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._reached or self._lost is not None, timeout_s)
            if not self._reached:
                raise ConversationLost(
                    self._lost or f"did not reach {self.name} within {timeout_s:g} s"
                )

    def open(self) -> None:
        """Let the conversation go on."""
        self._decide(True)

    def refuse(self) -> None:
        """Make the step fail. A gate that was already opened stays open."""
        self._decide(False)

    def lose(self, reason: str) -> None:
        """Make `wait_reached` raise ConversationLost with `reason`: the conversation has ended."""
        with self._condition:
            self._lost = reason
            self._condition.notify_all()

    def _decide(self, verdict: bool) -> None:
        with self._condition:
            if self._verdict is None:
                self._verdict = verdict
                self._condition.notify_all()


@dataclass
class Conversation:
    """A runtime's session with one `criu swrk`, as the interposer relays it.

    `runtime` and `criu` are the interposer's sockets to the two. `stamps` has a Stamp for each
    message that passed. `opened_fds` are closed with the conversation. `held` is CRIU's last
    notification, which may not have been passed on yet.

    One thread closes a conversation while others ask about its CRIU: after that `criu_pidfd` is no
    descriptor, or one of something else.
    """

    runtime: socket.socket
    criu: socket.socket
    runtime_pid: int
    criu_pid: int
    criu_pidfd: int
    stamps: list[Stamp] = field(default_factory=list)
    opened_fds: list[int] = field(default_factory=list)
    held: bytes = b""
    _over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stamp(self, name: str) -> None:
        self.stamps.append(Stamp(at_ns=time.monotonic_ns(), name=name))

    def log_last(self) -> None:
        """Log the last stamp. Pass the message on first: a container may be frozen meanwhile."""
        log.debug("CRIU %d: %s", self.criu_pid, self.stamps[-1].name)

    def criu_lives(self) -> bool:
        """Return whether CRIU still runs: it has ended neither by itself nor by a signal.

        A CRIU whose conversation is over counts as ended.
        """
        with self._lock:
            return not self._over and not ready(self.criu_pidfd, timeout_s=0)

    def wake(self) -> None:
        """Have CRIU and the runtime go on if somebody has stopped them (SIGSTOP)."""
        self._signal(signal.SIGCONT)
        with self._lock, contextlib.suppress(ProcessLookupError):
            if not self._over:
                os.kill(self.runtime_pid, signal.SIGCONT)

    def kill_criu(self) -> None:
        """Send SIGKILL to CRIU, which then undoes nothing, neither a freeze nor a network lock.

        Traced tasks run on. So this is right only when nothing may be undone, or CRIU hangs.
        """
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            if not self._over:
                signal.pidfd_send_signal(self.criu_pidfd, number)

    def close(self) -> None:
        """End the conversation for both peers, also if another process has copies of the sockets.

        The keeper of a held restore has such copies (migrate/agent/successor.py).
        """
        for peer in (self.runtime, self.criu):
            with contextlib.suppress(OSError):  # it has ended already
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()
        with self._lock:
            self._over = True
            os.close(self.criu_pidfd)
        while self.opened_fds:
            os.close(self.opened_fds.pop())


class Role(Protocol):
    """The part that the tool plays in the conversations of an Interposer.

    Each conversation calls these methods from a thread of its own; they may block.
    """

    def fds_for_criu(self, kind: str) -> dict[int, int]:
        """Return {number in CRIU: descriptor} for a conversation that begins with a `kind` request.

        The interposer sends the descriptors to CRIU and then closes them.
        """

    def begun(self, conversation: Conversation, kind: str) -> None:
        """Note that a conversation begins, with a request of `kind`."""

    def request(self, kind: str, message: rpc.Message) -> bool:
        """Edit a request in place. Return False to end the conversation without sending it."""

    def notify(self, script: str, pid: int) -> bool:
        """Return whether to pass CRIU's notification `script` on to the runtime.

        False: CRIU is answered that the step failed, and the runtime is not asked. `pid` is 0
        where CRIU gives none.
        """

    def went_on(self) -> None:
        """Note that CRIU was told to go on after a notification."""

    def ended(self, conversation: Conversation, kind: str) -> None:
        """Note that the conversation that began with a request of `kind` is over."""


Direction = Callable[[Conversation, bytes, list[int]], None]


class Interposer:
    """A context that serves shims on a unix socket at `path`, each conversation in a thread."""

    def __init__(self, path: Path, role: Role) -> None:
        self.path = path
        self._role = role

    def __enter__(self) -> Interposer:
        self._listener = Listener(self.path, self._serve, "interposer")
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self, shim: socket.socket) -> None:
        with shim:
            begun = self._begin(shim)
        if begun is None:
            return
        conversation, kind, first, ancillary = begun
        first_step = partial(self._pass_on, self._to_criu, conversation, first, ancillary)
        self._converse(conversation, kind, first_step)

    def take_over(self, conversation: Conversation, kind: str, *, held: bool) -> None:
        """Go on with a conversation that another process has relayed up to now.

        The conversation began with a request of `kind`. If `held`, its `held` message was not
        passed on yet. Returns when the conversation is over.
        """

        def first_step() -> None:
            if held:
                self._to_runtime(conversation, conversation.held, [])

        self._converse(conversation, kind, first_step)

    def _converse(
        self, conversation: Conversation, kind: str, first_step: Callable[[], None]
    ) -> None:
        self._role.begun(conversation, kind)
        # A reset instead of an end means that CRIU or the runtime was killed: `ended` tells the
        # role of either.
        try:
            with contextlib.suppress(OSError, ConversationLost):
                first_step()
                self._relay(conversation)
        finally:
            conversation.stamp("end")
            conversation.log_last()
            self._role.ended(conversation, kind)
            conversation.close()

    def _begin(self, shim: socket.socket) -> tuple[Conversation, str, bytes, list[int]] | None:
        """Return a new conversation, its kind, its first request, and that request's descriptors.

        Return None if the shim or the runtime closes its end first, or if the first message is not
        a request of CRIU's RPC.
        """
        with contextlib.ExitStack() as undo, contextlib.suppress(OSError, ConversationLost):
            _, fds = receive(shim, 64, 1)
            if not fds:
                return None
            undo.callback(_close, fds)
            runtime = socket.socket(fileno=fds[0])
            undo.callback(runtime.detach)
            first, ancillary = receive(runtime, MAX_MESSAGE, MAX_FDS)
            undo.callback(_close, ancillary)
            kind = rpc.kind_of(rpc.parse_request(first))
            conversation = self._introduce(shim, runtime, kind)
            undo.pop_all()
            return conversation, kind, first, ancillary
        return None

    def _introduce(self, shim: socket.socket, runtime: socket.socket, kind: str) -> Conversation:
        """Send the shim CRIU's end of a new socketpair, and the role's descriptors for `kind`."""
        # The shim becomes CRIU and keeps its pid.
        runtime_pid, criu_pid = peer_pid(runtime), peer_pid(shim)
        with contextlib.ExitStack() as undo:
            criu_pidfd = os.pidfd_open(criu_pid)
            undo.callback(os.close, criu_pidfd)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            with theirs:
                extra = self._role.fds_for_criu(kind)
                with contextlib.suppress(OSError):
                    numbers = " ".join(map(str, extra)).encode()
                    socket.send_fds(shim, [numbers or b" "], [theirs.fileno(), *extra.values()])
            _close([*extra.values()])
            undo.pop_all()
        return Conversation(
            runtime=runtime,
            criu=ours,
            runtime_pid=runtime_pid,
            criu_pid=criu_pid,
            criu_pidfd=criu_pidfd,
        )

    def _relay(self, conversation: Conversation) -> None:
        ways = {
            conversation.runtime.fileno(): (conversation.runtime, self._to_criu),
            conversation.criu.fileno(): (conversation.criu, self._to_runtime),
        }
        while True:
            for descriptor in ready(*ways):
                sender, direction = ways[descriptor]
                data, fds = receive(sender, MAX_MESSAGE, MAX_FDS)
                if not data:
                    _close(fds)
                    return
                self._pass_on(direction, conversation, data, fds)

    def _pass_on(
        self, direction: Direction, conversation: Conversation, data: bytes, fds: list[int]
    ) -> None:
        try:
            direction(conversation, data, fds)
        finally:
            _close(fds)

    def _to_criu(self, conversation: Conversation, data: bytes, fds: list[int]) -> None:
        message = rpc.parse_request(data)
        kind = rpc.kind_of(message)
        if message.HasField("opts"):
            self._renumber(conversation, message.opts)
        if kind != "NOTIFY" and not self._role.request(kind, message):
            raise ConversationLost(f"the {kind} request was refused")
        conversation.stamp(f"request {kind}" if kind != "NOTIFY" else "go on")
        socket.send_fds(conversation.criu, [message.SerializeToString()], fds)
        if kind == "NOTIFY":
            self._role.went_on()
        conversation.log_last()

    def _to_runtime(self, conversation: Conversation, data: bytes, fds: list[int]) -> None:
        message = rpc.parse_response(data)
        kind = rpc.kind_of(message)
        if kind == "NOTIFY":
            conversation.stamp(message.notify.script)
            conversation.held = data
            if not self._role.notify(message.notify.script, message.notify.pid):
                answer = rpc.request("NOTIFY", notify_success=False)
                conversation.criu.send(answer.SerializeToString())
                conversation.log_last()
                return
        else:
            conversation.stamp(f"response {kind} {'ok' if message.success else 'failed'}")
        socket.send_fds(conversation.runtime, [data], fds)
        conversation.log_last()

    def _renumber(self, conversation: Conversation, options: rpc.Message) -> None:
        for name in DIRECTORY_FIELDS:
            number = getattr(options, name) if options.HasField(name) else -1
            if number >= 0:
                fd = os.open(
                    proc.path(conversation.runtime_pid, "fd", number), os.O_RDONLY | os.O_DIRECTORY
                )
                conversation.opened_fds.append(fd)
                setattr(options, name, fd)


def receive(sock: socket.socket, size: int, most_fds: int) -> tuple[bytes, list[int]]:
    """Receive one message of at most `size` bytes, with at most `most_fds` descriptors.

    `sock` is a SEQPACKET socket.

    Raises ConversationLost for a message that was cut off to these bounds (recvmsg(2)), and
    OSError.
    """
    # Python allocates and frees as much as it is asked to receive. For `size` bytes that takes
    # longer than all else that is done with a message.
    waiting = sock.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
    data, fds, flags, _ = socket.recv_fds(sock, min(max(waiting, 1), size), most_fds)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        _close(fds)
        raise ConversationLost(
            f"a message of more than {size} bytes or {most_fds} descriptors came"
        )
    return data, fds


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)

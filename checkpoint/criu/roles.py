"""Roles of the tool in CRIU conversations: a held dump, a held restore, a dump that is skipped.

A role edits the runtime's request, holds the conversation at its gates, and sees CRIU end (Role in
interposer.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from checkpoint.criu import rpc
from checkpoint.criu.edits import Edits
from checkpoint.criu.interposer import MAX_MESSAGE, Conversation, Gate, Stamp
from checkpoint.errors import ConversationLost
from checkpoint.host import cgroups, proc

#: CRIU's descriptor of the page-server socket. It is high, so that no descriptor of the runtime's
#: has its number.
PAGE_SERVER_FD = 200
#: The key by which runc and crun tell CRIU of a network namespace that was made for the container.
OWN_NETWORK = "extRootNetNS"
LOOK_AGAIN_S = 0.001
#: How long a released container may take to run, until those are woken who may have been stopped.
WAKE_S = 0.2
#: The last notification before CRIU makes the tasks and gives them what they had
#: (criu/cr-restore.c).
MAKING_TASKS = "post-setup-namespaces"
#: The first notification after CRIU has made the container's init.
SETUP_NAMESPACES = "setup-namespaces"


class _HeldRole:
    """A role that holds the request of one kind, and its conversation again at one notification.

    Conversations that begin with a request of another kind pass through unchanged.
    """

    kind: str
    held_notification: str

    def __init__(self, edits: Edits) -> None:
        self.edits = edits
        self.request_gate = Gate(f"the {self.kind} request")
        self.done_gate = Gate(self.held_notification)
        self.stamps: list[Stamp] = []
        self._conversation: Conversation | None = None
        #: A callback for each notification that has one. It runs before the notification is passed
        #: on to the runtime.
        self.at: dict[str, Callable[[], None]] = {}
        #: The criu_opts of the request. They are set once `request_gate` is reached.
        self.options: rpc.Message = None

    def begun(self, conversation: Conversation, kind: str) -> None:
        if kind == self.kind:
            self._conversation = conversation
            self.stamps = conversation.stamps

    def fds_for_criu(self, kind: str) -> dict[int, int]:
        return {}

    def request(self, kind: str, message: rpc.Message) -> bool:
        if kind != self.kind:
            return True
        self.edit(message.opts)
        self.options = message.opts
        opened = self.request_gate.arrive()
        self.last_edit(message.opts)
        return opened

    def last_edit(self, options: rpc.Message) -> None:
        """Edit the request once more, when `request_gate` has been opened or refused."""

    def edit(self, options: rpc.Message) -> None:
        self.edits.apply(options)

    def notify(self, script: str, pid: int) -> bool:
        if script in self.at:
            self.at[script]()
        return self.done_gate.arrive() if script == self.held_notification else True

    def went_on(self) -> None:
        """Do nothing: only RestoreRole waits for it."""

    def ended(self, conversation: Conversation, kind: str) -> None:
        if kind == self.kind:
            self._conversation = None
            last = conversation.stamps[-2].name if len(conversation.stamps) > 1 else "nothing"
            self.lose(f"the conversation ended after {last!r}")

    def lose(self, reason: str) -> None:
        """Make every wait for a gate end: the conversation or the runtime has ended.

        Waits for a gate that was not reached raise ConversationLost with `reason`.
        """
        self.request_gate.lose(reason)
        self.done_gate.lose(reason)

    def refuse(self) -> None:
        """Refuse both gates: the one that holds the conversation, and the one still to come."""
        self.done_gate.refuse()
        self.request_gate.refuse()

    @property
    def conversation(self) -> Conversation:
        """The conversation of this role's kind, while it goes on. Raises ConversationLost."""
        if self._conversation is None:
            raise ConversationLost("the conversation is over")
        return self._conversation

    def criu_lives(self) -> bool:
        """Return whether a conversation of this role's kind has begun and its CRIU still runs."""
        return self._conversation is not None and self._conversation.criu_lives()

    def end(self, timeout_s: float) -> bool:
        """Wait after a refusal until CRIU has ended; kill CRIU when `timeout_s` seconds are over.

        A CRIU that somebody has stopped (SIGSTOP) goes on first. Return whether CRIU ended by
        itself. Tasks that a killed CRIU traced run on (ptrace(2), without PTRACE_O_EXITKILL).
        """
        deadline = time.monotonic() + timeout_s
        if (stopped := self._conversation) is not None:
            stopped.wake()
        while (conversation := self._conversation) is not None and conversation.criu_lives():
            if time.monotonic() > deadline:
                conversation.kill_criu()
                return False
            time.sleep(LOOK_AGAIN_S)
        return True


class DumpRole(_HeldRole):
    """The source's role: it holds the DUMP request, and then the dumped and frozen container.

    After `request_gate` was opened, the conversation is held at `done_gate`: tasks are frozen,
    image files written, the network is locked. When `done_gate` is refused, CRIU thaws every task
    and unlocks the network; the runtime then reports that its checkpoint failed and still shows the
    container running.
    `pages` is the page server's end of the socket on which CRIU sends pages (CRIU
    criu/page-xfer.c); the owner of the role serves it. With a `parent` (predump.py, parent.py)
    CRIU sends only the bytes of pages that the parent lacks.
    """

    kind = "DUMP"
    held_notification = "post-dump"

    def __init__(self, edits: Edits) -> None:
        super().__init__(edits)
        self.parent: str | None = None
        self.pages, self._criu_pages = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        widen(self._criu_pages)

    def fds_for_criu(self, kind: str) -> dict[int, int]:
        if kind != self.kind:
            return {}
        return {PAGE_SERVER_FD: self._criu_pages.detach()}

    def edit(self, options: rpc.Message) -> None:
        super().edit(options)
        # CRIU polls the cgroup freezer in steps of 100 ms; ptrace freezes in well under one.
        options.ClearField("freeze_cgroup")
        if self.edits.network_namespace and not any(
            name.startswith("net[") for name in options.external
        ):
            number = os.stat(self.edits.network_namespace).st_ino
            options.external.append(f"net[{number}]:{OWN_NETWORK}")

    def refuse(self) -> None:
        """Refuse both gates, and end the page-server socket so that a dump under way fails."""
        super().refuse()
        with contextlib.suppress(OSError):
            self.pages.shutdown(socket.SHUT_RDWR)

    def check_frozen(self) -> None:
        """Raise ConversationLost if CRIU has ended while it was held at `done_gate`.

        The tasks may then have run on, because only CRIU kept them frozen.
        """
        if not self.criu_lives():
            raise ConversationLost("CRIU ended while it held the frozen container")

    @property
    def locked_network(self) -> bool:
        """Return whether CRIU has locked the container's network, or was about to lock it."""
        return any(stamp.name == "network-lock" for stamp in self.stamps)

    def close(self) -> None:
        """Close the page-server socket, once the runtime has ended.

        If no DUMP request ever came, that includes the end that was meant for CRIU.
        """
        self.pages.close()
        self._criu_pages.close()

    def bury(self) -> None:
        """Kill CRIU after the container's processes were killed, before it undoes anything.

        CRIU that is told of a failed step unlocks the network and closes the dead processes'
        sockets after it took them out of repair mode (criu/cr-dump.c, criu/sk-tcp.c). Their FINs
        would reach peers that the target now serves.
        """
        if self._conversation is not None:
            self._conversation.kill_criu()
        self.refuse()

    def last_edit(self, options: rpc.Message) -> None:
        options.ps.fd = PAGE_SERVER_FD
        if self.parent is not None:
            options.track_mem = True
            options.parent_img = self.parent


class UndumpedRole:
    """A role that tells the runtime that its DUMP was done, although CRIU dumped nothing.

    An engine then goes on and writes what it adds to the image files (podman: its checkpoint
    archive). CRIU is sent a VERSION request in place of the DUMP, so that it ends successfully:
    runc insists on that.
    """

    def __init__(self) -> None:
        self._conversation: Conversation | None = None

    def fds_for_criu(self, kind: str) -> dict[int, int]:
        return {}

    def begun(self, conversation: Conversation, kind: str) -> None:
        self._conversation = conversation

    def request(self, kind: str, message: rpc.Message) -> bool:
        if kind == "DUMP":
            assert self._conversation is not None
            self._conversation.criu.send(rpc.request("VERSION").SerializeToString())
            self._conversation.criu.recv(MAX_MESSAGE)
            self._conversation.runtime.send(rpc.dumped().SerializeToString())
        return kind != "DUMP"

    def notify(self, script: str, pid: int) -> bool:
        return True

    def went_on(self) -> None:
        """Do nothing: CRIU sends no notification."""

    def ended(self, conversation: Conversation, kind: str) -> None:
        """Do nothing: no thread waits for a gate of this role."""


class RestoreRole(_HeldRole):
    """The target's role: it holds the RESTORE request, and then the restored, stopped container.

    After `request_gate` was opened, the conversation is held at `done_gate`: tasks are restored and
    stopped, the network is locked. When `done_gate` is refused, CRIU kills the tasks that it
    restored, and the runtime cleans up after itself.
    `lazy` may be set before `request_gate` is opened: CRIU then restores without reading memory,
    and a pager must be listening in the work directory (memory/pager/pager.py).
    `pid` is the pid of the restored init from the notification SETUP_NAMESPACES on, 0 before.
    """

    kind = "RESTORE"
    held_notification = "post-restore"

    def __init__(self, edits: Edits, images: Path) -> None:
        super().__init__(edits)
        self.pid = 0
        self.lazy = False
        self._images = images
        self._resumed = False
        self._making_tasks, self._over = threading.Event(), threading.Event()
        self._why_over = self._notified = ""

    def notify(self, script: str, pid: int) -> bool:
        self._notified = script
        self.pid = pid or self.pid
        if script == self.held_notification:
            self._making_tasks.set()
        if script == "post-resume":
            self._resumed = True
            self._over.set()
        return super().notify(script, pid)

    def went_on(self) -> None:
        # Not earlier: the computation would keep waiting those who must answer the notification.
        if self._notified == MAKING_TASKS:
            self._making_tasks.set()

    def edit(self, options: rpc.Message) -> None:
        super().edit(options)
        assert self._conversation is not None
        # Engines name directories of their own, which are not in RAM. CRIU looks descriptors up in
        # /proc/PID/fd of the process that made its socket: this one.
        fd = os.open(self._images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._conversation.opened_fds.append(fd)
        options.images_dir_fd = options.work_dir_fd = fd
        if self.edits.one_cgroup:
            # runc has moved CRIU already. crun leaves cgroups to CRIU, which `one_cgroup` forbids.
            for root in options.cg_root:
                cgroups.enter(self._conversation.criu_pid, root.path, root.ctrl)
                if not root.ctrl:
                    _show_own_cgroups(options, root.path)

    def last_edit(self, options: rpc.Message) -> None:
        options.lazy_pages = self.lazy

    def roots(self) -> dict[str, Path]:
        """Return the paths on this host of the container's root and of its bind mounts.

        Keys are mount points in the container; "/" is the root. Needs the request: call this once
        `request_gate` is reached.
        """
        mounts = {mount.key: Path(mount.val) for mount in self.options.ext_mnt}
        return {**mounts, "/": Path(self.options.root)}

    @property
    def network_namespace(self) -> str:
        """A path of the network namespace that the runtime made or was given for the container.

        The path is good while the conversation is held at the RESTORE request.
        """
        assert self._conversation is not None
        fd = next(
            inherited.fd for inherited in self.options.inherit_fd if inherited.key == OWN_NETWORK
        )
        return proc.path(self._conversation.criu_pid, "fd", fd)

    def wait_making_tasks(self, timeout_s: float) -> None:
        """Block until CRIU begins to make the tasks, until it ends, or for `timeout_s` seconds.

        While it makes them, CRIU sends no notification, so no computation here keeps it waiting.
        """
        self._making_tasks.wait(timeout_s)

    def wait_resumed(self, timeout_s: float) -> None:
        """Block until the notification `post-resume`: all tasks run.

        CRIU and the runtime go on if somebody has stopped them (SIGSTOP). Raises ConversationLost
        when CRIU ends before that, or after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while not self._over.wait(min(WAKE_S, timeout_s)):
            if time.monotonic() > deadline:
                raise ConversationLost(f"CRIU did not resume the container within {timeout_s:g} s")
            if (conversation := self._conversation) is not None:
                conversation.wake()
        # The engine's command may have ended while CRIU, which is no child of its, goes on.
        while not self._resumed and self.criu_lives() and time.monotonic() < deadline:
            time.sleep(LOOK_AGAIN_S)
        if not self._resumed:
            raise ConversationLost(f"CRIU did not resume the container: {self._why_over}")

    def lose(self, reason: str) -> None:
        super().lose(reason)
        self._why_over = self._why_over or reason
        self._making_tasks.set()
        self._over.set()


def _show_own_cgroups(options: rpc.Message, path: str) -> None:
    """Make the container's v1 cgroup mounts show its own cgroup, at `path` in each hierarchy.

    crun's request names the cgroups that crun itself is in.
    """
    for mount in options.ext_mnt:
        if mount.key.startswith(f"{cgroups.V1_ROOT}/") and mount.val.startswith(mount.key):
            mount.val = f"{mount.key}{path}"


def widen(sock: socket.socket, size_bytes: int = 8 << 20) -> None:
    """Give a socket a send buffer of `size_bytes`, so that CRIU can write ahead of its reader.

    On a unix socket the sender's buffer is the one that counts.
    """
    so_sndbufforce = 32  # include/uapi/asm-generic/socket.h; the socket module does not name it
    sock.setsockopt(socket.SOL_SOCKET, so_sndbufforce, size_bytes)

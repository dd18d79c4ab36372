"""The two roles the tool plays in CRIU conversations: the dump it holds, the restore it holds."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checkpoint.criu import rpc
from checkpoint.criu.interposer import MAX_MESSAGE, Conversation, Gate, Stamp
from checkpoint.errors import ConversationLost
from checkpoint.host import cgroups

#: Where CRIU finds the page-server socket. High, so that it meets no descriptor of the runtime's.
PAGE_SERVER_FD = 200
LOG_LEVEL_WARNING = 2
#: How runc and crun call a network namespace that they were given.
OWN_NETWORK = "extRootNetNS"
LOOK_AGAIN_S = 0.001
#: The last of CRIU's questions before it makes the tasks and gives them what they had (cr-restore.c).
MAKING_TASKS = "post-setup-namespaces"


@dataclass(frozen=True, kw_only=True)
class Edits:
    """What we change in a runtime's request, the same on both hosts.

    `nftables`: lock the network with nft; CRIU's default runs iptables-restore and ip6tables-restore.
    `one_cgroup`: one cgroup is all the container has. CRIU, once it is in there itself, then need not move tasks, which
    waits for RCU once per v1 hierarchy.
    `external_mounts`: (mount point in the container, what it is bound to) of mounts that CRIU need not make nor fill;
    a dump wants the mount point twice.
    `network_namespace`: in a dump, one that somebody makes on the target, even if the runtime takes it for its own.
    """

    nftables: bool
    one_cgroup: bool
    external_mounts: tuple[tuple[str, str], ...] = ()
    network_namespace: str | None = None

    def apply(self, options: rpc.Message) -> None:
        options.log_level = LOG_LEVEL_WARNING
        options.notify_scripts = (
            True  # crun asks for none when it dumps, and passes them over when they come
        )
        if self.nftables:
            options.network_lock = rpc.network_lock_nftables()
        if self.one_cgroup:
            options.manage_cgroups = False
            options.manage_cgroups_mode = rpc.cgroups_ignore()
        for mount_point, bound in self.external_mounts:
            options.ext_mnt.add(key=mount_point, val=bound)


class _HeldRole:
    """Holds one kind of request, and that conversation once more at one notification."""

    kind: str
    held_notification: str

    def __init__(self, edits: Edits) -> None:
        self.edits = edits
        self.request_gate = Gate(f"the {self.kind} request")
        self.done_gate = Gate(self.held_notification)
        self.stamps: list[Stamp] = []
        self._conversation: Conversation | None = None
        #: What to do at a notification, before it is passed on.
        self.at: dict[str, Callable[[], None]] = {}
        #: criu_opts of the request, once `request_gate` is reached.
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
        """What is known only when the request is let go."""

    def edit(self, options: rpc.Message) -> None:
        self.edits.apply(options)

    def notify(self, script: str, pid: int) -> bool:
        if script in self.at:
            self.at[script]()
        return self.done_gate.arrive() if script == self.held_notification else True

    def ended(self, conversation: Conversation, kind: str) -> None:
        if kind == self.kind:
            self._conversation = None
            last = conversation.stamps[-2].name if len(conversation.stamps) > 1 else "nothing"
            self.lose(f"the conversation ended after {last!r}")

    def lose(self, reason: str) -> None:
        """Wake waiters: the runtime is gone, no (further) gate will be reached."""
        self.request_gate.lose(reason)
        self.done_gate.lose(reason)

    def refuse(self) -> None:
        """Give up at whichever gate holds the conversation."""
        self.done_gate.refuse()
        self.request_gate.refuse()

    def criu_lives(self) -> bool:
        """Whether there is a CRIU and it has not ended."""
        return self._conversation is not None and self._conversation.criu_lives()

    def end(self, timeout_s: float) -> bool:
        """After a refusal: wait until CRIU has ended, and kill it if it does not. Whether it ended by itself.

        What a killed CRIU traced runs on (ptrace(2), PTRACE_O_EXITKILL is not set).
        """
        deadline = time.monotonic() + timeout_s
        while (conversation := self._conversation) is not None and conversation.criu_lives():
            if time.monotonic() > deadline:
                conversation.kill_criu()
                return False
            time.sleep(LOOK_AGAIN_S)
        return True


class DumpRole(_HeldRole):
    """Source side. Opened: frozen at `done_gate`, images written, network locked.

    Refusing `done_gate` makes CRIU thaw every task and unlock the network; the runtime then reports
    that its checkpoint failed and still shows the container running.
    `pages` is our end of the page-server socket (CRIU criu/page-xfer.c speaks it on the other end).
    With a `parent` (predump.py, parent.py) only pages that it has not are sent.
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
        # The cgroup freezer is polled in 100 ms steps; ptrace freezes in well under one.
        options.ClearField("freeze_cgroup")
        if self.edits.network_namespace and not any(
            name.startswith("net[") for name in options.external
        ):
            number = os.stat(self.edits.network_namespace).st_ino
            options.external.append(f"net[{number}]:{OWN_NETWORK}")

    def refuse(self) -> None:
        """... and what it still sends to the page server is wanted no more."""
        super().refuse()
        with contextlib.suppress(OSError):
            self.pages.shutdown(socket.SHUT_RDWR)

    def check_frozen(self) -> None:
        """Raise ConversationLost if CRIU ended while it was held: nobody holds the tasks then, they may have run on."""
        if not self.criu_lives():
            raise ConversationLost("CRIU ended while it held the frozen container")

    @property
    def locked_network(self) -> bool:
        """Whether CRIU came to lock the container's network in this conversation, or was about to."""
        return any(stamp.name == "network-lock" for stamp in self.stamps)

    def close(self) -> None:
        """Once the runtime is gone. CRIU's end of the pages is still ours if no DUMP ever came."""
        self.pages.close()
        self._criu_pages.close()

    def bury(self) -> None:
        """The container's processes are dead: end CRIU where it stands.

        However it is answered, it would unlock the network and close the dead processes' sockets, whose peers the
        target now serves.
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
    """Tells the runtime that its DUMP was done, without doing it: for what an engine writes beside the images.

    CRIU is asked for its version instead, so that it ends well: runc wants that.
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

    def ended(self, conversation: Conversation, kind: str) -> None:
        """Nobody waits for it."""


class RestoreRole(_HeldRole):
    """Target side. Opened: at `done_gate` tasks are restored, stopped, and the network is locked.

    With `lazy` somebody must be listening in the work directory by then (memory/pager.py).

    Refusing `done_gate` makes CRIU kill what it restored and the runtime clean up after itself.
    `pid` is the restored init, known from `post-restore` on.
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
        self._why_over = ""

    def notify(self, script: str, pid: int) -> bool:
        if script == self.held_notification:
            self.pid = pid
        if script in (MAKING_TASKS, self.held_notification):
            self._making_tasks.set()
        if script == "post-resume":
            self._resumed = True
            self._over.set()
        return super().notify(script, pid)

    def edit(self, options: rpc.Message) -> None:
        super().edit(options)
        assert self._conversation is not None
        # Engines name a directory of theirs, which is not in RAM. CRIU looks this up in our /proc/PID/fd.
        fd = os.open(self._images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._conversation.opened_fds.append(fd)
        options.images_dir_fd = options.work_dir_fd = fd
        if self.edits.one_cgroup:
            for root in (
                options.cg_root
            ):  # runc has done so before; crun leaves it to CRIU, which is told not to
                cgroups.enter(self._conversation.criu_pid, root.path, root.ctrl)
                if not root.ctrl:
                    _show_own_cgroups(options, root.path)

    def last_edit(self, options: rpc.Message) -> None:
        options.lazy_pages = self.lazy

    def roots(self) -> dict[str, Path]:
        """Where the runtime shows the container's root ("/") and each bind mount, by its place in the container."""
        mounts = {mount.key: Path(mount.val) for mount in self.options.ext_mnt}
        return {**mounts, "/": Path(self.options.root)}

    @property
    def network_namespace(self) -> str:
        """A path of the one that the runtime has made or was given. As long as it waits at the RESTORE request."""
        assert self._conversation is not None
        fd = next(
            inherited.fd for inherited in self.options.inherit_fd if inherited.key == OWN_NETWORK
        )
        return f"/proc/{self._conversation.criu_pid}/fd/{fd}"

    def wait_making_tasks(self, timeout_s: float) -> None:
        """Block until CRIU asks nothing for a while, as it makes the tasks; or until it ends, or `timeout_s` are over.

        Whoever has something to compute keeps nobody waiting then.
        """
        self._making_tasks.wait(timeout_s)

    def wait_resumed(self, timeout_s: float) -> None:
        """Block until the tasks run. Raises ConversationLost when CRIU ends without saying so, or is too late."""
        if not self._over.wait(timeout_s):
            raise ConversationLost(f"CRIU did not resume the container within {timeout_s:g} s")
        if not self._resumed:
            raise ConversationLost(f"CRIU did not resume the container: {self._why_over}")

    def lose(self, reason: str) -> None:
        super().lose(reason)
        self._why_over = self._why_over or reason
        self._making_tasks.set()
        self._over.set()


def _show_own_cgroups(options: rpc.Message, path: str) -> None:
    """crun would bind the v1 cgroups that it is in itself, not the container's, where the container sees its own."""
    for mount in options.ext_mnt:
        if mount.key.startswith(f"{cgroups.V1_ROOT}/") and mount.val.startswith(mount.key):
            mount.val = f"{mount.key}{path}"


def widen(sock: socket.socket, size_bytes: int = 8 << 20) -> None:
    """Let CRIU write ahead of our reading. On a unix socket the sender's buffer is the one that counts."""
    so_sndbufforce = 32  # include/uapi/asm-generic/socket.h; the socket module does not name it
    sock.setsockopt(socket.SOL_SOCKET, so_sndbufforce, size_bytes)

"""The transfer of the container image to a target whose engine does not have it.

Only layers that the target does not have are sent, several files at once.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from checkpoint.engines.base import Container, Engine
from checkpoint.files.beneath import TreeRoot
from checkpoint.files.rsync import Running
from checkpoint.host.ownership import private_directory
from checkpoint.host.ram_directory import claim
from migrate.agent.client import AgentClient
from migrate.agent.plug_command import IMAGE
from migrate.files.rsync_tunnel import RsyncTunnel
from migrate.files.trees import tried
from migrate.leftovers import OUTGOING_IMAGES
from migrate.wire import protocol

AT_ONCE = 4
TIMEOUT_S = 3600.0


def send_image(
    engine: Engine,
    container: Container,
    there: frozenset[str],
    agent: AgentClient,
    tunnel: RsyncTunnel,
) -> int:
    """Send the container image and have the target's engine load it. Returns the bytes sent.

    `there` are the layers that the target has. Files that an interrupted transfer has brought to
    the target are not sent again. Raises CommandFailed, EngineRefused, AgentFailed or AgentGone.
    """
    private_directory(OUTGOING_IMAGES)
    with tempfile.TemporaryDirectory(dir=OUTGOING_IMAGES) as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        stack.callback(os.close, claim(directory))
        engine.export_image(container, there, directory)
        key = str(container.engine_state["Image"]).removeprefix("sha256:")
        agent.request(protocol.AwaitContainerImage(key=key), timeout_s=TIMEOUT_S)
        sent = send_files(agent, tunnel, directory)
    agent.request(protocol.LoadContainerImage(), timeout_s=TIMEOUT_S)
    return sent


def send_files(agent: AgentClient, tunnel: RsyncTunnel, directory: Path) -> int:
    """Send all files of a directory, AT_ONCE at a time, and return the bytes sent."""
    shares = dealt((path for path in directory.rglob("*") if path.is_file()), AT_ONCE)
    passes, given_up = list[Running](), threading.Event()

    def send(share: list[Path]) -> int:
        names = (str(path.relative_to(directory)) for path in share)
        passes.append(started := rsync.resumed())
        if given_up.is_set():
            started.stop()
        return started.finish(TIMEOUT_S, names)

    with TreeRoot(directory) as root, ThreadPoolExecutor(AT_ONCE) as threads:
        rsync = tunnel.rsync(root.fd, IMAGE)

        def send_all() -> int:
            started = [threads.submit(send, share) for share in shares]
            try:
                wait(started)  # another try must not send the same files beside this one
            except BaseException:  # Ctrl-C: nobody waits until all is sent
                given_up.set()
                for each in list(passes):
                    each.stop()
                raise
            return sum(each.result() for each in started)

        return tried(agent, send_all)


def dealt(files: Iterable[Path], shares: int) -> list[list[Path]]:
    """Divide files among at most `shares` groups of about the same size, none of them empty."""
    groups: list[tuple[int, list[Path]]] = [(0, []) for _ in range(shares)]
    for size, file in sorted(((file.stat().st_size, file) for file in files), reverse=True):
        total, group = min(groups, key=lambda each: each[0])
        groups.remove((total, group))
        groups.append((total + size, [*group, file]))
    return [group for _, group in groups if group]

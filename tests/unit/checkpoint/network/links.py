"""A link in a network namespace of its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def on_a_link(body: Callable[[], T]) -> T:
    """Run a function in a new network namespace with a link between `near` and `far`.

    It runs in a thread, with which the namespace ends. Returns what the function returns.
    """

    def enter() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        inside = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
        for words in (
            "link add near type veth peer name far",
            "link set near up",
            "link set far up",
        ):
            subprocess.run(["nsenter", f"--net={inside}", "ip", *words.split()], check=True)

    with ThreadPoolExecutor(1, initializer=enter) as thread:
        return thread.submit(body).result()

"""The files on a page's way from a process on the source to the page store on the target.

The way is found by sending some pages and watching what is called: while a round is sent, by the
thread that sends a batch, and by the thread that receives it. A real process is tracked, and its
pages go over a pipe and the plug to the receiver. All of that is real; only sshd is left out.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, cast

from checkpoint.host import ram_directory
from checkpoint.host.run import start
from migrate.agent.plug_command import PAGES, plug_command
from migrate.agent.received import Received
from migrate.files.tree_door import TreeDoor
from migrate.memory import encoding, receiver
from migrate.memory.channels import PageChannels
from migrate.memory.copying import Ends
from migrate.memory.encoding import EncodingChoice
from migrate.memory.userfaultfd import UserfaultfdCopy
from migrate.wire import protocol
from tests.figures.source import PACKAGES, ROOT
from tests.unit.helpers.obedient import Child
from transport.openssh import SshProcess
from transport.throttle import RateLimit

MIGRATION = "0123456789ab"
#: Functions that a round calls besides, to look for processes that came or went.
BESIDES = {"attach", "_forget_ended"}
#: A file that modules of so many directories import is of general use: a reader knows it already.
GENERAL_DIRECTORIES = 6
#: The plug, which is a program of its own and cannot be watched.
PLUG = "migrate/agent/plug.py"


class Watch:
    """A watch that notes the product's files, for each thread.

    They are in the order in which functions of theirs are first called.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, None]] = {}
        self._besides = threading.local()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        depth = getattr(self._besides, "depth", 0)
        if code.co_name in BESIDES and event in ("call", "return"):
            self._besides.depth = depth + (1 if event == "call" else -1)
        elif event == "call" and depth == 0:
            with contextlib.suppress(ValueError):
                name = Path(code.co_filename).relative_to(ROOT)
                if name.parts[0] in PACKAGES:
                    self.files.setdefault(threading.current_thread().name, {})[str(name)] = None


@contextlib.contextmanager
def received(room: Path) -> Iterator[Received]:
    """Make the target's end of a copy, in a directory of its own."""
    ram_directory.RUN = room
    request = protocol.Prepare(shared=False, network=None, room_bytes=64 << 20, page_channels=1)
    with contextlib.ExitStack() as tidy:
        yield Received(MIGRATION, request, TreeDoor(room / "trees"), tidy, print, batch_s=30.0)


def page_path() -> list[str]:
    """Return the files, those of the source first.

    This needs root, and a kernel with userfaultfd's write protection.
    """
    watch = Watch()
    with tempfile.TemporaryDirectory() as name, received(Path(name)):
        threading.setprofile(watch)
        command = plug_command(receiver.socket_path(MIGRATION), PAGES)
        pipe = subprocess.PIPE
        stream = SshProcess(start(["sh", "-c", command], stdin=pipe, stdout=pipe))
        stream.read_into(memoryview(bytearray(1)))
        child = Child()
        channels = PageChannels([stream], EncodingChoice(encoding.AVAILABLE), RateLimit(None))
        try:
            copy = UserfaultfdCopy(_ends(child.pid, channels))
            copy.attach()
            sys.setprofile(watch)
            copy.send_round()
            sys.setprofile(None)
            copy.close()
        finally:
            threading.setprofile(None)
            channels.close()
            child.end()
    order = ("MainThread", "pages")
    source = [file for thread in order for file in watch.files.get(thread, ())]
    target = [
        file for thread, files in watch.files.items() if thread not in order for file in files
    ]
    return list(dict.fromkeys([*source, PLUG, *target]))


def _ends(pid: int, channels: PageChannels) -> Ends:
    """Return both ends of a copy, as far as a round needs them."""
    silent: Any = lambda *_: None  # noqa: E731
    progress = SimpleNamespace(note=silent, sent=silent)
    return cast(Ends, SimpleNamespace(pid=pid, pages=channels, progress=progress))


def general(path: list[str]) -> list[str]:
    """Return those files of a way that are of general use.

    Such files are of ranges, of /proc, and of the bounds of fields.
    """
    users: dict[str, set[Path]] = {}
    for package in PACKAGES:
        for module in (ROOT / package).rglob("*.py"):
            for imported in _imports(module):
                users.setdefault(f"{imported.replace('.', '/')}.py", set()).add(module.parent)
    return [file for file in path if len(users.get(file, ())) >= GENERAL_DIRECTORIES]


def _imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages_crossed(path: list[str]) -> int:
    """Return how often the way goes from one directory to another."""
    places = [str(Path(file).parent) for file in path]
    return sum(before != after for before, after in itertools.pairwise(places))

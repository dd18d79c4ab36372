#!/usr/bin/python3 -IS
"""The `criu` that runtimes find first on PATH when the tool drives them.

It is installed as DIRECTORY/bin/criu, a lone file: standard library only. What else it needs is beside it: engines
pass their environment on to a runtime or not. Asked for `swrk FD` it hands FD (the
runtime's RPC socket) to the interposer on DIRECTORY/rpc.sock by SCM_RIGHTS, takes the descriptors it gets back, and
becomes the real CRIU: the same process, so CRIU stays the runtime's child (`rst_sibling` needs that). Where no
interposer listens (any more) it fails: a checkpoint that nobody holds would end the container. With a file
DIRECTORY/kerndat, CRIU finds that where it keeps its own (parent.py). For any other sub-command it is exactly `criu`.
"""

import ctypes
import os
import socket
import sys

RPC_SOCKET, OWN_KERNDAT = "rpc.sock", "kerndat"
#: KERNDAT_CACHE_FILE of criu/kerndat.c
KERNDAT = "/run/criu.kdat"
#: unshare(2), mount(2)
CLONE_NEWNS, MS_BIND, MS_REC, MS_SLAVE = 1 << 17, 1 << 12, 1 << 14, 1 << 19
MAX_FDS = 8


def real_criu() -> str:
    """The next `criu` on PATH that is not this file."""
    own = os.stat(__file__)
    for directory in [
        *os.environ.get("PATH", os.defpath).split(":"),
        "/usr/local/sbin",
        "/usr/sbin",
        "/sbin",
    ]:
        path = os.path.join(directory or ".", "criu")
        if os.access(path, os.X_OK) and not os.path.samestat(os.stat(path), own):
            return path
    sys.exit("criu: not found on PATH")


def hand_over(rpc_fd: int, socket_path: str) -> None:
    """Swap the runtime's RPC socket for the interposer's; further descriptors go where it says.

    The answer's text lists the descriptor numbers CRIU is to see, in the order of the descriptors.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(socket_path)
        socket.send_fds(peer, [b"swrk"], [rpc_fd])
        text, fds, _, _ = socket.recv_fds(peer, 256, MAX_FDS)
    numbers = [rpc_fd, *map(int, text.split())]
    if len(numbers) != len(fds):
        sys.exit("criu: the interposer went away")
    for fd, number in zip(fds, numbers):  # noqa: B905  (lengths were just compared)
        os.dup2(fd, number, inheritable=True)
        os.close(fd)


def show_instead(kerndat: str) -> None:
    """In a mount namespace of our own. What others unmount goes away in it, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    path = kerndat.encode()
    if (
        libc.unshare(CLONE_NEWNS)
        or libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None)
        or libc.mount(path, KERNDAT.encode(), None, MS_BIND, None)
    ):
        sys.exit(f"criu: {kerndat} cannot be shown as {KERNDAT}: {os.strerror(ctypes.get_errno())}")


def main() -> None:
    """Become CRIU."""
    criu, arguments = real_criu(), sys.argv[1:]
    directory = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.exists(kerndat := os.path.join(directory, OWN_KERNDAT)):
        show_instead(kerndat)
    socket_path = os.path.join(directory, RPC_SOCKET)
    if len(arguments) == 2 and arguments[0] == "swrk":
        hand_over(int(arguments[1]), socket_path)
    os.execv(criu, [criu, *arguments])  # noqa: S606  (to become it is the point)


if __name__ == "__main__":
    main()

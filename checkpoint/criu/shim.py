#!/usr/bin/python3 -IS
"""The shim: the `criu` that runtimes find first on PATH when the tool drives them.

The shim is installed as DIRECTORY/bin/criu, a lone file that needs only the standard library. It
finds everything else by its own path, because not every engine passes its environment on to the
runtime.

Called as `criu swrk FD`, the shim hands FD (the runtime's RPC socket) to the interposer on
DIRECTORY/rpc.sock by SCM_RIGHTS, takes the descriptors that come back, and becomes the real CRIU.
That is the same process, so CRIU stays the runtime's child (`rst_sibling` needs that). If no
interposer listens, or none any more, the shim fails: a checkpoint that nobody holds would end the
container. For any other sub-command it becomes the real CRIU at once.

If there is a file DIRECTORY/kerndat, CRIU finds that file in place of its own (parent.py).
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
    """Return the path of the first `criu` on PATH, or in sbin, that is not this file."""
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
    """Put the interposer's socket in place of `rpc_fd`, the runtime's RPC socket.

    The interposer answers with its socket and any further descriptors. The text of the answer lists
    the numbers that CRIU is to see the further ones under, in the same order.
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
    """Bind the file `kerndat` over CRIU's own, in a mount namespace of this process.

    The namespace is a slave of the old one: mounts that others unmount go away in it, too.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    path = kerndat.encode()
    if (
        libc.unshare(CLONE_NEWNS)
        or libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None)
        or libc.mount(path, KERNDAT.encode(), None, MS_BIND, None)
    ):
        sys.exit(f"criu: {kerndat} cannot be shown as {KERNDAT}: {os.strerror(ctypes.get_errno())}")


def main() -> None:
    """Become the real CRIU, with its RPC socket exchanged and its kerndat replaced as needed."""
    criu, arguments = real_criu(), sys.argv[1:]
    directory = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.exists(kerndat := os.path.join(directory, OWN_KERNDAT)):
        show_instead(kerndat)
    socket_path = os.path.join(directory, RPC_SOCKET)
    if len(arguments) == 2 and arguments[0] == "swrk":
        hand_over(int(arguments[1]), socket_path)
    os.execv(criu, [criu, *arguments])  # noqa: S606  (the shim must become CRIU)


if __name__ == "__main__":
    main()

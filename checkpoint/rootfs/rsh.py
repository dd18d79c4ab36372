#!/usr/bin/python3 -IS
"""rsync's remote shell (`-e`): hands its standard streams and rsync's remote command to the tool.

The tool runs the command over the SSH connection it already has, so there is one login, one host
key check. A lone file: standard library only.
"""

import os
import socket
import sys

SOCKET_VARIABLE = "MIGRATE_RSYNC_SOCKET"


def main() -> int:
    """Exit with the remote command's status."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(os.environ[SOCKET_VARIABLE])
        # argv: this file, [options,] host, command... as rsync quoted it for a remote shell
        socket.send_fds(peer, [" ".join(sys.argv[2:]).encode()], [0, 1])
        for fd in (0, 1):
            os.close(fd)
        answer = peer.recv(16)
    return int(answer) if answer else 255


if __name__ == "__main__":
    sys.exit(main())

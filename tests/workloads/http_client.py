"""A client that sends GET every millisecond over one HTTP/1.1 connection.

The connection is never made again. The rest is as in redis_client.py.
"""

import argparse
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from tests.workloads.redis_client import Client, ClientError, main
else:
    from redis_client import Client, ClientError, main

END_OF_HEADER = b"\r\n\r\n"


class HttpClient(Client):
    """A client to which each answer must be status 200 and the same as the first."""

    def __init__(self, sock: socket.socket, args: argparse.Namespace) -> None:
        super().__init__(sock, args)
        self._request = f"GET / HTTP/1.1\r\nHost: {args.host}\r\n\r\n".encode()
        self._body: bytes | None = None

    def _read_value(self) -> int:
        data = b""
        while END_OF_HEADER not in data:
            data += self._receive()
        header, _, body = data.partition(END_OF_HEADER)
        lines = header.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        while len(body) < int(fields["content-length"]):
            body += self._receive()
        if " 200 " not in lines[0] or body != (self._body or body):
            raise ClientError(f"unexpected answer {data[:80]!r}")
        self._body = body
        return self._count + 1

    def _receive(self) -> bytes:
        data = self._sock.recv(65536)
        if not data:
            raise ClientError("the server closed the connection")
        return data


if __name__ == "__main__":
    sys.exit(main(HttpClient))

"""What makes a program obey a test: it runs the code that comes on its standard input."""

import json
import os
import socket
from typing import Any


def take_channel() -> socket.socket:
    """Return the socket that is this program's standard input, which becomes /dev/null."""
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    return channel


def obey(channel: socket.socket, names: dict[str, Any]) -> None:
    """Run each message as code among `names`, and answer with the JSON of the name `answer`."""
    while told := channel.recv(1 << 16):
        names["answer"] = None
        exec(told, names)  # noqa: S102
        channel.send(json.dumps(names["answer"]).encode())

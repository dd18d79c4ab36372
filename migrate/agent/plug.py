"""Plugs an SSH channel into the agent: what the channel's command is on the target.

It hands its standard input and output, the channel, to the agent that listens at the socket argv[1], with the message
argv[2] that says what for. The agent writes PLUGGED to the channel, which tells the source that the channel got to the
agent: the socket has a name that no other host has. The program stays until the agent tells how it ended,
"STATUS\\nTEXT", or just goes away. A lone program: standard library only, sent as text (migrate/plugs.py).
"""

import os
import socket
import sys

with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as agent:
    agent.connect(sys.argv[1])
    socket.send_fds(agent, [sys.argv[2].encode()], [0, 1])
    for number in (0, 1):
        os.close(number)
    status, _, text = agent.recv(1 << 16).partition(b"\n")
os.write(2, text)  # short result: less than a pipe holds, for people
os._exit(int(status or b"0"))

r"""The command of an SSH channel on the target: it plugs the channel into the agent.

The program's standard input and output are the channel. It hands both to the agent that listens at
the unix socket argv[1], with the message argv[2], which says what the channel is for. The agent
writes PLUGGED to the channel. That tells the source that the channel has reached the agent: no
other host has a socket of that name. The program stays until the agent reports how the channel's
use ended, as "STATUS\nTEXT", or closes the connection. An agent that closes it without a report
has not done what the channel is for, unless that was to bring pages, whose digests tell.

A lone program: it imports the standard library only, and is sent as text (plug_command.py).
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
os._exit(int(status or b"1"))

"""The program that asks an agent on the host where it runs, and prints the agent's reply.

Its arguments are the path of the agent's control socket (control.py), the word to send, the seconds
to wait for a reply, and the most bytes of a reply.

A lone program: it imports the standard library only, and `migratectl recover --on HOST` sends it to
that host as text.
"""

import socket
import sys

path, word, timeout_s, most_bytes = sys.argv[1:]
agent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
agent.settimeout(float(timeout_s))
try:
    agent.connect(path)
    agent.send(word.encode())
    print(agent.recv(int(most_bytes)).decode())
except OSError as error:
    sys.exit(error.strerror or str(error))

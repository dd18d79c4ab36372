"""A line of JSON every tenth of a second that tells how many commands a redis has done so far.

One connection asks for all of them.
"""

import argparse
import json
import re
import signal
import socket
import sys
import time

INTERVAL_S = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description="print {unix_ns, commands} ten times a second")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        socket.create_connection((args.host, args.port), timeout=60) as sock,
        sock.makefile("rb") as answers,
    ):
        while True:
            sock.sendall(b"INFO stats\r\n")
            size = int(answers.readline()[1:] or sys.exit("the server closed the connection"))
            found = re.search(rb"total_commands_processed:(\d+)", answers.read(size + 2))
            if found is None:
                sys.exit("that is no redis")
            print(json.dumps({"unix_ns": time.time_ns(), "commands": int(found[1])}), flush=True)
            time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main()

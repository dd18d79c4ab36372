"""Many connections to one port, on which nothing is said. They end with stdin.

The first line on stdout is READY, once all of them are made.
"""

import argparse
import resource
import socket
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description="hold many idle connections")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--count", type=int, required=True)
    args = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    kept = [socket.create_connection((args.host, args.port)) for _ in range(args.count)]
    print("READY", flush=True)
    sys.stdin.read()
    for connection in kept:
        connection.close()


if __name__ == "__main__":
    main()

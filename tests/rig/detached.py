"""Run a command that leaves a container behind, with its streams on pipes.

    detached.py LOG COMMAND...

A node runs this as a program, by path, so it uses the standard library only. CRIU dumps no
container that has a file open outside it, but takes pipes. So stdin is a pipe to which nobody
writes, and a child that this process leaves behind appends what comes through stdout and stderr to
LOG, until the last process of the container has closed them.
"""

import os
import selectors
import subprocess
import sys

CHUNK = 65536


def append(log: int, stdout: int, stderr: int) -> None:
    """Append what comes through two pipes to a log, until both have ended."""
    selector = selectors.DefaultSelector()
    for stream in (stdout, stderr):
        selector.register(stream, selectors.EVENT_READ)
    while selector.get_map():
        for key, _ in selector.select():
            data = os.read(key.fd, CHUNK)
            if data:
                os.write(log, data)
            else:
                selector.unregister(key.fd)


def main() -> int:
    """Run the command, and return its exit status."""
    log_path, *command = sys.argv[1:]
    stdin, stdin_writer = os.pipe()
    stdout_reader, stdout = os.pipe()
    stderr_reader, stderr = os.pipe()
    log = os.open(log_path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o640)
    if os.fork() == 0:
        for descriptor in (stdin, stdout, stderr):
            os.close(descriptor)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        append(log, stdout_reader, stderr_reader)
        os._exit(0)
    for descriptor in (stdin_writer, stdout_reader, stderr_reader):
        os.close(descriptor)
    process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())

"""The way to the target: settings from ssh(1), a proxy if they name one, and a connection."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator

from checkpoint.errors import CommandFailed
from checkpoint.host.run import find_program, run, start
from transport import endpoint, ssh, ssh_config
from transport.connection import Connection
from transport.destination import Destination
from transport.endpoint import Endpoint
from transport.errors import Unreachable

SETTINGS_TIMEOUT_S = 20.0
#: A function that makes the connection to a host for the length of a block. Raises ConnectError.
Connect = Callable[[Destination], contextlib.AbstractContextManager[Connection]]


@contextlib.contextmanager
def by_ssh(destination: Destination) -> Iterator[Connection]:
    """Make a connection as ssh(1) would, for the length of the block.

    Raises the subclasses of ConnectError.
    """
    with contextlib.ExitStack() as stack:
        where = endpoint_of(destination)
        sock = (
            ssh.open_socket(where)
            if where.proxy is None
            else stack.enter_context(through_proxy(where.proxy, where))
        )
        yield stack.enter_context(ssh.connect(where, sock))


def endpoint_of(destination: Destination) -> Endpoint:
    """Return what the destination means to ssh(1), or by ssh_config(5) if there is no ssh(1).

    Raises Unreachable.
    """
    try:
        if find_program("ssh") is None:
            settings = ssh_config.lookup(destination)
        else:
            settings = endpoint.parsed(
                run(endpoint.question(destination), timeout_s=SETTINGS_TIMEOUT_S)
            )
        return Endpoint.of(destination, settings)
    except CommandFailed as error:
        reason = "; ".join(error.stderr.splitlines()) or str(error)
        raise Unreachable(
            f"ssh's settings for {destination.name} cannot be had: {reason}"
        ) from error
    except ValueError as error:
        raise Unreachable(
            f"ssh's settings for {destination.name} make no sense: {error}"
        ) from error


@contextlib.contextmanager
def through_proxy(proxy: str, where: Endpoint) -> Iterator[socket.socket]:
    """Start a proxy and yield a socket that is connected to its standard streams.

    The proxy ends with the block, even if it is stopped. If the connection fails in the block, the
    reason in Unreachable is what the proxy wrote to its standard error.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as said:
        argv = endpoint.shell_command(proxy)
        process = start(argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=said.fileno())
        theirs.close()
        try:
            yield ours
        except Unreachable as error:
            said.seek(0)
            words = said.read(4096).decode(errors="replace").split("\n")
            reason = "; ".join(word.strip() for word in words if word.strip()) or str(error)
            raise Unreachable(
                f"no SSH connection to {where} through its proxy: {reason}"
            ) from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

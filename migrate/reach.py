"""Reach the target: ask ssh(1) what the destination means, start a proxy where one leads there, connect."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Iterator

from checkpoint.errors import CommandFailed
from checkpoint.host.run import find_program, run, start
from transport import endpoint, ssh, ssh_config
from transport.connection import Connection
from transport.destination import Destination
from transport.endpoint import Endpoint
from transport.errors import Unreachable

SETTINGS_TIMEOUT_S = 20.0


@contextlib.contextmanager
def by_ssh(destination: Destination) -> Iterator[Connection]:
    """A connection like ssh(1)'s for the length of the block. Raises ConnectError's sub-classes."""
    with contextlib.ExitStack() as stack:
        where = _endpoint(destination)
        sock = (
            ssh.open_socket(where)
            if where.proxy is None
            else stack.enter_context(_through(where.proxy, where))
        )
        yield stack.enter_context(ssh.connect(where, sock))


def _endpoint(destination: Destination) -> Endpoint:
    """What the destination means: to ssh(1), or by the files of ssh_config(5) where that is not here."""
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
def _through(proxy: str, where: Endpoint) -> Iterator[socket.socket]:
    """A socket that a proxy's standard streams are. When the block ends, so does the proxy, stopped or not.

    What it says is the reason, should the connection fail in the block.
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

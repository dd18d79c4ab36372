"""SSH connections, through the one door to paramiko.

The host's key is verified as ssh(1) does it (known_hosts.py, host_certificate.py), and not by
paramiko, which looks at no marker in known_hosts. The preferred cipher is twice as fast as
paramiko's default.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import paramiko

from transport import known_hosts
from transport.destination import Destination
from transport.endpoint import AGENT_VARIABLE, Endpoint
from transport.errors import (
    AuthenticationRefused,
    HostKeyChanged,
    HostKeyRefused,
    HostKeyUnknown,
    IncompleteFrame,
    TooSlow,
    Unreachable,
    reason,
)
from transport.host_certificate import SUFFIX, Certificate
from transport.keepalive import HeardSocket, Keepalive
from transport.known_hosts import Known, key_type

# Errors are raised to the caller. Without a handler paramiko would print their tracebacks, too.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

FIRST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
#: The host key algorithms of a type of key, where they do not have its name. An algorithm ssh-rsa
#: exists, but signs by SHA-1.
ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
#: Socket options (tcp(7)): the first probe comes after 5 s of silence, then one each 2 s, at most
#: three; sent data must be acknowledged within 10 s.
TCP_KEEPALIVE = {
    socket.TCP_KEEPIDLE: 5,
    socket.TCP_KEEPINTVL: 2,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 10_000,
}
#: The errors that paramiko raises when the connection under a channel is gone.
BROKEN = (OSError, EOFError, paramiko.SSHException)


class RemoteProcess:
    """A command that runs on the other host; its stdin and stdout are a ByteStream."""

    def __init__(self, channel: paramiko.Channel, keepalive: Keepalive) -> None:
        self._channel, self._keepalive = channel, keepalive

    def read(self, size: int) -> bytes:
        try:
            data = self._channel.recv(size)
        except BROKEN as error:
            raise self._broke(error) from error
        if not data and self._keepalive.silent_s is not None:
            raise self._broke(EOFError())
        return data

    def read_into(self, view: memoryview) -> int:
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def write(self, data: bytes | memoryview) -> None:
        try:
            self._channel.sendall(data)  # type: ignore[arg-type]
        except BROKEN as error:
            raise self._broke(error) from error

    def read_errors(self, size: int) -> bytes:
        """Return up to `size` bytes of the command's stderr; b"" at the end.

        `patience` does not bound the wait, although paramiko has one limit for a whole channel.
        """
        while True:
            try:
                return self._channel.recv_stderr(size)
            except TimeoutError:
                continue
            except BROKEN:
                return b""

    def patience(self, seconds: float | None) -> None:
        """Bound the wait of each later read or write, in seconds; None is no bound.

        A read or write that waits longer raises TooSlow.
        """
        self._channel.settimeout(seconds)

    def end_input(self) -> None:
        """Close the command's stdin."""
        with contextlib.suppress(*BROKEN):
            self._channel.shutdown_write()

    def ended(self) -> bool:
        """Return whether the server has reported the command's exit status."""
        return self._channel.exit_status_ready()

    def wait(self) -> int:
        """Wait for the command's exit status and return it; -1 if the server reports none."""
        return self._channel.recv_exit_status()

    def close(self) -> None:
        with contextlib.suppress(*BROKEN):
            self._channel.close()

    def _broke(self, error: Exception) -> IncompleteFrame:
        if (silent_s := self._keepalive.silent_s) is not None:
            return IncompleteFrame(
                f"the SSH connection broke: nothing came from the other host for {silent_s:.0f} s"
            )
        if isinstance(error, TimeoutError):
            return TooSlow("nothing came from the other host in time")
        return IncompleteFrame(f"the SSH connection broke: {reason(error)}")


class Connection:
    """An authenticated SSH connection."""

    def __init__(
        self, transport: paramiko.Transport, endpoint: Endpoint, keepalive: Keepalive
    ) -> None:
        self._transport, self._keepalive = transport, keepalive
        self.endpoint = endpoint

    @property
    def destination(self) -> Destination:
        """The other host, as the user wrote it."""
        return self.endpoint.destination

    def run(self, command: str) -> RemoteProcess:
        """Start a command, given as one string for the login shell on the other host.

        Raises IncompleteFrame if the server opens no further session, or the connection broke.
        """
        try:
            channel = self._transport.open_session()
            channel.exec_command(command)
        except BROKEN as error:
            raise IncompleteFrame(
                "the target's sshd opens no further session on the connection (MaxSessions in its"
                f" sshd_config is how many it may open): {reason(error)}"
            ) from error
        return RemoteProcess(channel, self._keepalive)


def open_socket(endpoint: Endpoint, timeout_s: float = 10.0) -> socket.socket:
    """Return a new TCP connection to the endpoint's sshd. Raises Unreachable."""
    try:
        sock = socket.create_connection((endpoint.address, endpoint.port), timeout_s)
    except socket.gaierror as error:
        raise Unreachable(f"cannot resolve {endpoint.address}: {error.strerror}") from error
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unreachable(f"{endpoint.address} port {endpoint.port}: {reason}") from error
    # The connection must break within seconds, not hours, after its peer has vanished: a container
    # may be frozen meanwhile.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in TCP_KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    # Every message of the switch-over is smaller than a segment, and must not wait for the next.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@contextlib.contextmanager
def connect(
    endpoint: Endpoint, sock: socket.socket, timeout_s: float = 10.0
) -> Iterator[Connection]:
    """Hold an SSH connection over `sock`, which leads to the host's sshd, open for the block.

    Both are closed at the end of the block.
    Raises Unreachable, HostKeyUnknown, HostKeyChanged, HostKeyRefused or AuthenticationRefused.
    """
    with contextlib.ExitStack() as stack:
        heard = stack.enter_context(HeardSocket(sock))
        known = _known(endpoint)
        transport = paramiko.Transport(heard)
        stack.callback(transport.close)
        transport.banner_timeout = transport.auth_timeout = timeout_s
        choose_algorithms(transport.get_security_options(), endpoint, known)
        try:
            transport.start_client(timeout=timeout_s)
            shown = transport.get_remote_server_key()
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise Unreachable(f"no SSH connection to {endpoint}: {reason(error)}") from error
        verify(shown, known, endpoint)
        authenticate(transport, endpoint)
        keepalive = Keepalive(
            heard, lambda: transport.global_request("keepalive@openssh.com", wait=True)
        )
        stack.callback(keepalive.close)
        yield Connection(transport, endpoint, keepalive)


def _known(endpoint: Endpoint) -> Known:
    """Return the keys that the user's files have of the host.

    Raises HostKeyUnknown if they have none, and HostKeyRefused for a RevokedHostKeys file that
    cannot be read.
    """
    known = known_hosts.known(endpoint.key_name, endpoint.known_hosts)
    if not known:
        files = ", ".join(str(path) for path in endpoint.known_hosts)
        raise HostKeyUnknown(f"no key of {endpoint.key_name} in {files}")
    if endpoint.revoked_keys is None:
        return known
    return Known(
        known.keys,
        known.authorities,
        known.revoked | known_hosts.revoked_keys(endpoint.revoked_keys),
    )


def choose_algorithms(options: paramiko.SecurityOptions, endpoint: Endpoint, known: Known) -> None:
    """Set the order of ciphers and of host key algorithms that are offered to the server.

    Algorithms of known keys come first, so that a host with several keys shows a known one.
    """
    first = [name for name in FIRST_CIPHERS if name in options.ciphers]
    options.ciphers = (*first, *(name for name in options.ciphers if name not in first))
    plain = [name for name in options.key_types if name != "ssh-rsa"]
    types = {
        name for blob in known.keys for name in ALGORITHMS.get(key_type(blob), (key_type(blob),))
    }
    certified = [f"{name}{SUFFIX}" for name in plain] if known.authorities else []
    wanted = [*certified, *sorted(plain, key=lambda name: name not in types)]
    options.key_types = tuple(
        name for name in wanted if endpoint.algorithms is None or name in endpoint.algorithms
    ) or tuple(wanted)


def verify(shown: paramiko.PKey, known: Known, endpoint: Endpoint) -> None:
    """Raise HostKeyRefused, HostKeyChanged or HostKeyUnknown unless `shown` is the host's key.

    The key exchange has verified that the server has the private key; this verifies that the key is
    the right one.
    """
    name, key = endpoint.key_name, shown.asbytes()
    certificate = _certificate(shown, name)
    if key in known.revoked or (certificate is not None and certificate.authority in known.revoked):
        raise HostKeyRefused(
            f"the key of {name} is marked as revoked in known_hosts, or who certified it is"
        )
    if certificate is not None and certificate.authority in known.authorities:
        if (objection := _objection(certificate, endpoint)) is not None:
            raise HostKeyRefused(f"the certificate of {name} is no good: {objection}")
        return
    if key in known.keys:
        return
    types = {key_type(blob) for blob in known.keys}
    if key_type(key) in types:
        raise HostKeyChanged(f"the key of {name} is not the one in known_hosts")
    has = (
        f"has only its {', '.join(sorted(types))}"
        if types
        else "has an authority, which did not certify it"
    )
    raise HostKeyUnknown(f"{name} shows a key of type {key_type(key)}, and known_hosts {has}")


def _certificate(shown: paramiko.PKey, name: str) -> Certificate | None:
    """Return the certificate that came with the host's key, or None if the key came alone.

    Raises HostKeyRefused for a certificate that cannot be read, or is of another key.
    """
    if shown.public_blob is None:
        return None
    try:
        certificate = Certificate.parse(shown.public_blob.key_blob)
    except ValueError as error:
        raise HostKeyRefused(f"the certificate of {name} is no good: {error}") from error
    if certificate.key != shown.asbytes():
        raise HostKeyRefused(f"the certificate of {name} is no good: it is of another key")
    return certificate


def _objection(certificate: Certificate, endpoint: Endpoint) -> str | None:
    """Return why a certificate does not prove the host's key; None if it does."""
    if (objection := certificate.objection(endpoint.certified_name, time.time())) is not None:
        return objection
    algorithm, allowed = certificate.signature_algorithm, endpoint.authority_algorithms
    if algorithm == "ssh-rsa" or (allowed is not None and algorithm not in allowed):
        return f"it is signed by {algorithm or 'nothing'}, which is not trusted"
    try:
        authority = paramiko.PKey.from_type_string(
            key_type(certificate.authority), certificate.authority
        )
        good = authority.verify_ssh_sig(certificate.signed, paramiko.Message(certificate.signature))
    except (paramiko.SSHException, ValueError, OverflowError) as error:
        return f"its signature cannot be verified ({error})"
    return None if good else "its authority did not sign it"


def authenticate(transport: paramiko.Transport, endpoint: Endpoint) -> None:
    """Log in with the first key that the server accepts.

    Raises AuthenticationRefused or Unreachable.
    """
    offered = 0
    with contextlib.ExitStack() as stack:
        for key in _keys(endpoint, stack):
            offered += 1
            try:
                if not transport.auth_publickey(endpoint.user, key):
                    return
            except paramiko.BadAuthenticationType:
                break
            except paramiko.AuthenticationException:
                continue
            except BROKEN as error:
                if offered > 1:  # sshd hangs up after some (MaxAuthTries)
                    break
                raise Unreachable(f"no SSH connection to {endpoint}: {reason(error)}") from error
    if not offered:
        raise AuthenticationRefused(
            f"there is no key to log in to {endpoint} with,"
            " in an agent or in a file without a passphrase"
        )
    raise AuthenticationRefused(f"{endpoint} accepts none of the keys offered")


def _keys(endpoint: Endpoint, stack: contextlib.ExitStack) -> Iterator[paramiko.PKey]:
    """Yield the keys to log in with, in ssh(1)'s order.

    First come the agent's keys that a key file names, then the agent's other keys, then the keys
    in files without a passphrase.
    """
    held = _agent_keys(endpoint, stack)
    named = {blob for path in endpoint.key_files if (blob := public_blob(path)) is not None}
    yield from (key for key in held if key.asbytes() in named)
    if not endpoint.identities_only:
        yield from (key for key in held if key.asbytes() not in named)
    for path in endpoint.key_files:
        if (key := _private_key(path)) is not None:
            yield key


def _agent_keys(endpoint: Endpoint, stack: contextlib.ExitStack) -> Sequence[paramiko.PKey]:
    """Return the keys of the SSH agent that ssh_config(5) or the environment names.

    The agent can be asked to sign by these keys until `stack` is closed.
    """
    if endpoint.agent is None:
        return ()
    before = os.environ.get(AGENT_VARIABLE)
    os.environ[AGENT_VARIABLE] = str(endpoint.agent)  # paramiko looks nowhere else
    try:
        agent = paramiko.Agent()
    except (OSError, paramiko.SSHException):  # the socket is no agent's
        return ()
    finally:
        os.environ.pop(AGENT_VARIABLE) if before is None else os.environ.update(
            {AGENT_VARIABLE: before}
        )
    stack.callback(agent.close)
    return agent.get_keys()


def _private_key(path: Path) -> paramiko.PKey | None:
    """Return the key in a file, with the certificate in PATH-cert.pub if that exists.

    Return None if the file cannot be read, is no key, or needs a passphrase.
    """
    try:
        return paramiko.PKey.from_path(path)
    except (OSError, TypeError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType):
        return None  # TypeError and ValueError are cryptography's


def public_blob(path: Path) -> bytes | None:
    """Return the public key of a key file, in the form of RFC 4253, 6.6; None if there is none.

    It is read from PATH.pub, or from the file itself, which may be a public key (IdentityFile of
    ssh_config(5)).
    """
    for file in (path.with_name(f"{path.name}.pub"), path):
        with contextlib.suppress(OSError, ValueError):
            fields = file.read_bytes().split()
            if (
                len(fields) >= 2
                and key_type(blob := base64.b64decode(fields[1])) == fields[0].decode()
            ):
                return blob
    return None

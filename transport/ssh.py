"""SSH, through the one door to paramiko.

Host keys are always verified, ssh_config and the agent are honoured, and the cipher that is twice
as fast as paramiko's default comes first.
"""

from __future__ import annotations

import contextlib
import getpass
import io
import shlex
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from transport.destination import Destination
from transport.errors import (
    AuthenticationRefused,
    HostKeyChanged,
    HostKeyUnknown,
    IncompleteFrame,
    Unreachable,
)

FIRST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
DEFAULT_PORT = 22
#: tcp(7): first probe after 5 s of silence, three tries; sent data is to be acknowledged within 10 s.
KEEPALIVE = {
    socket.TCP_KEEPIDLE: 5,
    socket.TCP_KEEPINTVL: 2,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 10_000,
}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A destination with ssh_config applied. `key_name` is what known_hosts lists it under."""

    destination: Destination
    address: str
    port: int
    user: str
    key_name: str
    known_hosts: tuple[Path, ...]
    key_files: tuple[str, ...]
    proxy_command: str | None

    @classmethod
    def of(cls, destination: Destination, home: Path | None = None) -> Endpoint:
        """Apply ~/.ssh/config and then /etc/ssh/ssh_config, as ssh_config(5) orders them."""
        home = home or Path.home()
        options = _lookup(destination, (home / ".ssh/config", SYSTEM_CONFIG))
        port = int(options.get("port", DEFAULT_PORT))
        address = options.get("hostname", destination.name)
        # As ssh does: the name after HostName, and the port where it is not the usual one.
        key_name = options.get("hostkeyalias") or (address if port == DEFAULT_PORT else f"[{address}]:{port}")
        listed = options.get("userknownhostsfile", str(home / ".ssh/known_hosts"))
        proxy = options.get("proxycommand")
        if proxy is None and options.get("proxyjump", "none") != "none":
            proxy = _jump(options["proxyjump"], address, port)
        return cls(
            destination=destination,
            address=address,
            port=port,
            user=options.get("user") or getpass.getuser(),
            key_name=key_name,
            known_hosts=(*(Path(path).expanduser() for path in listed.split()), SYSTEM_KNOWN_HOSTS),
            key_files=tuple(options.get("identityfile", [])),
            proxy_command=None if proxy in (None, "none") else proxy,
        )

    def __str__(self) -> str:
        return f"{self.user}@{self.address}:{self.port}"


#: What paramiko raises when the connection under a channel is gone: not only OSError.
BROKEN = (OSError, EOFError, paramiko.SSHException)


class RemoteProcess:
    """A command on the other host; its stdin and stdout are a ByteStream."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def read(self, size: int) -> bytes:
        try:
            return self._channel.recv(size)
        except BROKEN as error:
            raise IncompleteFrame(f"the SSH connection broke: {error or type(error).__name__}") from error

    def read_into(self, view: memoryview) -> int:
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def write(self, data: bytes | memoryview) -> None:
        try:
            self._channel.sendall(data)  # type: ignore[arg-type]
        except BROKEN as error:
            raise IncompleteFrame(f"the SSH connection broke: {error or type(error).__name__}") from error

    def read_errors(self, size: int) -> bytes:
        """Up to `size` bytes of its stderr; b"" at the end."""
        return self._channel.recv_stderr(size)

    def patience(self, seconds: float | None) -> None:
        """Bound how long a read or write from now on waits; None is for ever. One that takes longer breaks."""
        self._channel.settimeout(seconds)

    def end_input(self) -> None:
        """Close its stdin."""
        with contextlib.suppress(*BROKEN):
            self._channel.shutdown_write()

    def ended(self) -> bool:
        """Whether the server has told its exit status."""
        return self._channel.exit_status_ready()

    def wait(self) -> int:
        """Its exit status; -1 when the server did not say."""
        return self._channel.recv_exit_status()

    def close(self) -> None:
        with contextlib.suppress(*BROKEN):
            self._channel.close()


class Connection:
    """An authenticated SSH connection."""

    def __init__(self, client: paramiko.SSHClient, endpoint: Endpoint) -> None:
        self._client = client
        self.endpoint = endpoint

    @property
    def destination(self) -> Destination:
        """The host, as the user wrote it."""
        return self.endpoint.destination

    def run(self, command: str) -> RemoteProcess:
        """Start a command, given as one string for the remote login shell. Raises IncompleteFrame."""
        try:
            channel = self._transport().open_session()
            channel.exec_command(command)
        except BROKEN as error:
            raise IncompleteFrame(
                f"no further session on the SSH connection: {error or type(error).__name__}"
            ) from error
        return RemoteProcess(channel)

    def _transport(self) -> paramiko.Transport:
        transport = self._client.get_transport()
        if transport is None:
            raise IncompleteFrame("the SSH connection is closed")
        return transport


@contextlib.contextmanager
def connect(endpoint: Endpoint, timeout_s: float = 10.0) -> Iterator[Connection]:
    """An SSH connection for the length of the block. Raises ConnectError's sub-classes."""
    client = paramiko.SSHClient()
    for path in endpoint.known_hosts:
        if path.exists():
            client.load_host_keys(str(path)) if path is endpoint.known_hosts[0] else client.load_system_host_keys(
                str(path)
            )
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        _connect(client, endpoint, timeout_s)
        yield Connection(client, endpoint)
    finally:
        client.close()


def _connect(client: paramiko.SSHClient, endpoint: Endpoint, timeout_s: float) -> None:
    known = any(client.get_host_keys().lookup(endpoint.key_name) or {}) or any(
        client._system_host_keys.lookup(endpoint.key_name) or {}  # type: ignore[attr-defined]
    )
    if not known:
        files = ", ".join(str(path) for path in endpoint.known_hosts)
        raise HostKeyUnknown(f"no key of {endpoint.key_name} in {files}")
    keys: Any = [path for path in endpoint.key_files if Path(path).expanduser().exists()]
    try:
        client.connect(
            # known_hosts is searched by this name; the socket says where we really go.
            endpoint.key_name,
            username=endpoint.user,
            sock=_open_socket(endpoint, timeout_s),
            key_filename=keys,
            timeout=timeout_s,
            banner_timeout=timeout_s,
            auth_timeout=timeout_s,
            transport_factory=_transport,
        )
    except paramiko.BadHostKeyException as error:
        raise HostKeyChanged(f"the key of {endpoint.key_name} is not the one in known_hosts") from error
    except paramiko.AuthenticationException as error:
        raise AuthenticationRefused(f"{endpoint} accepts none of the keys offered") from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        if "not found in known_hosts" in str(error):
            raise HostKeyUnknown(str(error)) from error
        raise Unreachable(f"no SSH connection to {endpoint}: {error}") from error


def _open_socket(endpoint: Endpoint, timeout_s: float) -> Any:
    if endpoint.proxy_command:
        replaced = endpoint.proxy_command.replace("%h", endpoint.address).replace("%p", str(endpoint.port))
        return paramiko.ProxyCommand(replaced.replace("%r", endpoint.user))
    try:
        sock = socket.create_connection((endpoint.address, endpoint.port), timeout_s)
    except OSError as error:
        raise Unreachable(f"{endpoint.address} port {endpoint.port}: {error.strerror or error}") from error
    # A peer that vanished is given up on within seconds, not hours: a container may be frozen meanwhile.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    # Every message of the switch-over is smaller than a segment and must not wait for the next one.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _transport(sock: Any, **kwargs: Any) -> paramiko.Transport:
    transport = paramiko.Transport(sock, **kwargs)
    options = transport.get_security_options()
    available = list(options.ciphers)
    first = [name for name in FIRST_CIPHERS if name in available]
    options.ciphers = tuple(first + [name for name in available if name not in first])
    return transport


def _jump(hops: str, address: str, port: int) -> str:
    """ProxyJump as a command: ssh to the last hop, through the others, and from there on."""
    *others, last = (hop.strip() for hop in hops.split(","))
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    words = ["ssh", *(["-J", ",".join(others)] if others else []), "-W", where]
    return shlex.join([*words, last if last.startswith("ssh://") else f"ssh://{last}"])


def _lookup(destination: Destination, files: Sequence[Path]) -> dict[str, Any]:
    """Options for a host. What the user wrote wins, then the first file to set one; identity files add up.

    The user's own come as a first section of each file, so that %p and %r in it mean them.
    """
    written = {"Port": destination.port, "User": destination.user}
    first = "Host *\n" + "".join(f"  {key} {value}\n" for key, value in written.items() if value)
    merged: dict[str, Any] = {}
    for text in [first, *(first + path.read_text() for path in files if path.exists())]:
        config = paramiko.SSHConfig()
        config.parse(io.StringIO(text))
        for key, value in config.lookup(destination.name).items():
            if key == "hostname" and value == destination.name:
                continue  # paramiko fills it in when the file does not say
            if key == "identityfile":
                merged.setdefault(key, []).extend(value)
            else:
                merged.setdefault(key, value)
    return merged

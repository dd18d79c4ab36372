"""How a connection or a stream can fail.

TransportError
├── ConnectError             no usable SSH connection
│   ├── Unreachable          no TCP connection, or no SSH server on it
│   ├── AuthenticationRefused
│   ├── HostKeyUnknown
│   ├── HostKeyChanged
│   └── HostKeyRefused       ... or a certificate, of which known_hosts says that it must not be trusted
└── StreamError              a framed stream ended or broke
    ├── EndOfStream          the peer closed it between two frames
    ├── IncompleteFrame      ... or inside one
    └── FrameInvalid         what came is not a frame, or a larger one than allowed
"""


class TransportError(Exception):
    """Base of this package's errors."""


class ConnectError(TransportError):
    """No usable SSH connection could be made."""


class Unreachable(ConnectError):
    """Name resolution, TCP, the proxy or the SSH handshake failed."""


class AuthenticationRefused(ConnectError):
    """The server accepted none of the keys that were offered."""


class HostKeyUnknown(ConnectError):
    """No known_hosts file has a key of this host."""


class HostKeyChanged(ConnectError):
    """The host's key is not the one in known_hosts: it was reinstalled, or it is another machine."""


class HostKeyRefused(ConnectError):
    """The host's key is revoked, or its certificate is no good: expired, for other hosts, badly signed."""


class StreamError(TransportError):
    """A framed stream cannot be used any further."""


class EndOfStream(StreamError):
    """The peer closed the stream at a frame boundary."""


class IncompleteFrame(StreamError):
    """The stream ended inside a frame."""


class FrameInvalid(StreamError):
    """The bytes are not a frame, or exceed its bounds."""

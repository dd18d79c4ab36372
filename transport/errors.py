"""The errors of connections and streams.

TransportError
├── ConnectError               no usable SSH connection could be made
│   ├── Unreachable            no connection to the host, or no SSH server on it
│   ├── AuthenticationRefused  the server accepted no key
│   ├── HostKeyUnknown         known_hosts has no key of the host, or none of the type shown
│   ├── HostKeyChanged         known_hosts has another key of the host
│   └── HostKeyRefused         the host's key or certificate must not be trusted
└── StreamError                a framed stream ended or broke
    ├── EndOfStream            the peer closed the stream between two frames
    ├── IncompleteFrame        the stream ended, or the connection broke, within a frame
    │   ├── PeerEnded          ... and the program at its other end has ended
    │   └── TooSlow            ... because the peer took longer than it was given
    └── FrameInvalid           a frame is over the bounds
"""


class TransportError(Exception):
    """The base of this package's errors."""


class ConnectError(TransportError):
    """No usable SSH connection could be made."""


class Unreachable(ConnectError):
    """Name resolution, TCP, the proxy or the SSH handshake failed."""


class AuthenticationRefused(ConnectError):
    """The server accepted none of the keys that were offered, or there was none to offer."""


class HostKeyUnknown(ConnectError):
    """No known_hosts file has a key of this host, or none of the type that the host shows."""


class HostKeyChanged(ConnectError):
    """The host's key is not the one in known_hosts: it was reinstalled, or is another machine."""


class HostKeyRefused(ConnectError):
    """The host's key must not be trusted.

    Either it is revoked, or its certificate is bad (expired, for other hosts, badly signed), or the
    list of revoked keys cannot be read.
    """


class StreamError(TransportError):
    """A framed stream cannot be used any further."""


class EndOfStream(StreamError):
    """The peer closed the stream at a frame boundary."""


class IncompleteFrame(StreamError):
    """The stream ended inside a frame, or the connection under it broke."""


class PeerEnded(IncompleteFrame):
    """The connection broke, and the program at its other end has ended; its host is reached."""


class TooSlow(IncompleteFrame):
    """The peer has sent nothing, or taken nothing, for longer than it was given."""


class FrameInvalid(StreamError):
    """A frame to send, or one that the peer announces, exceeds the bounds."""


def reason(error: BaseException) -> str:
    """Return what an error says; its class's name if it says nothing, as TimeoutError may."""
    return str(error) or type(error).__name__

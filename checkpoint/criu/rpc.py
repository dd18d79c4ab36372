"""The one door to pycriu's protobuf modules.

pycriu comes with CRIU, not from PyPI, so its absence is an ordinary finding and not a crash. Only
the message classes are used: its `criu` class drops NOTIFY requests and CRIU's error text.
"""

from __future__ import annotations

import os
import sys
from typing import Any

# Debian's protobuf C extension does not import on Python 3.14 (pycriu says the same of itself).
if sys.version_info >= (3, 14):
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

try:
    from pycriu import rpc_pb2 as _rpc
    from pycriu.images import fdinfo_pb2 as _fdinfo
except ImportError as error:
    _rpc = _fdinfo = None
    WHY_MISSING: str | None = str(error)
else:
    WHY_MISSING = None

Message = Any


def available() -> bool:
    """Whether pycriu can be imported here."""
    return WHY_MISSING is None


def parse_request(data: bytes) -> Message:
    """bytes -> criu_req (rpc.proto)."""
    message = _rpc.criu_req()
    message.ParseFromString(data)
    return message


def parse_response(data: bytes) -> Message:
    """bytes -> criu_resp (rpc.proto)."""
    message = _rpc.criu_resp()
    message.ParseFromString(data)
    return message


def kind_of(message: Message) -> str:
    """The criu_req_type of a request or response, by name: DUMP, RESTORE, NOTIFY ..."""
    return str(_rpc.criu_req_type.Name(message.type))


def request(kind: str, **fields: Any) -> Message:
    """A criu_req of that kind."""
    return _rpc.criu_req(type=_rpc.criu_req_type.Value(kind), **fields)


def network_lock_nftables() -> int:
    """The value of criu_opts.network_lock that makes CRIU use nftables."""
    return int(_rpc.NFTABLES)


def cgroups_ignore() -> int:
    """The value of criu_opts.manage_cgroups_mode that leaves cgroups to the runtime."""
    return int(_rpc.IGNORE)


def fdinfo() -> Any:
    """The message classes of fdinfo.proto: file_entry and what is in it."""
    return _fdinfo

"""The one door to pycriu's protobuf modules.

pycriu comes with CRIU, not from PyPI, so a host without it is an ordinary finding (`available`) and
not a crash. Only the message classes of pycriu are used: its `criu` class drops NOTIFY requests and
CRIU's error text.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

from checkpoint.errors import ConversationLost

# Debian's protobuf C extension does not import on Python 3.14 (pycriu says the same of itself).
if sys.version_info >= (3, 14):
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError
    from pycriu import rpc_pb2 as _rpc
    from pycriu.images import core_pb2 as _core
    from pycriu.images import fdinfo_pb2 as _fdinfo
    from pycriu.images import inventory_pb2 as _inventory
    from pycriu.images import mm_pb2 as _mm
    from pycriu.images import pstree_pb2 as _pstree
except ImportError as error:
    _rpc = _core = _fdinfo = _inventory = _mm = _pstree = None
    WHY_MISSING: str | None = str(error)
    DECODE_ERRORS: tuple[type[Exception], ...] = ()
else:
    WHY_MISSING = None
    DECODE_ERRORS = (DecodeError,)

Message = Any


def available() -> bool:
    """Return whether pycriu can be imported on this host. WHY_MISSING says why not."""
    return WHY_MISSING is None


def parse_request(data: bytes) -> Message:
    """Return the criu_req (rpc.proto) that these bytes are. Raises ConversationLost otherwise."""
    return _parse(_rpc.criu_req(), data)


def parse_response(data: bytes) -> Message:
    """Return the criu_resp (rpc.proto) that these bytes are. Raises ConversationLost otherwise."""
    return _parse(_rpc.criu_resp(), data)


def _parse(message: Message, data: bytes) -> Message:
    try:
        message.ParseFromString(data)
    except DECODE_ERRORS as error:
        raise ConversationLost("what came is not a message of CRIU's RPC") from error
    # `type` is a required field. A message without it is empty: the end of the stream.
    if not message.IsInitialized():
        raise ConversationLost("the peer closed its end")
    return message


def kind_of(message: Message) -> str:
    """Return the criu_req_type of a request or response by name: DUMP, RESTORE, NOTIFY ...

    Raises ConversationLost for a type that this pycriu does not know.
    """
    try:
        return str(_rpc.criu_req_type.Name(message.type))
    except ValueError as error:
        raise ConversationLost(f"CRIU's RPC has no request of type {message.type} here") from error


def request(kind: str, **fields: Any) -> Message:
    """Return a criu_req of a kind (DUMP, VERSION ...) with these fields set."""
    return _rpc.criu_req(type=_rpc.criu_req_type.Value(kind), **fields)


def dumped() -> Message:
    """Return a criu_resp that says that a dump was done."""
    return _rpc.criu_resp(type=_rpc.DUMP, success=True, dump=_rpc.criu_dump_resp(restored=False))


def network_lock_nftables() -> int:
    """Return the value of criu_opts.network_lock that makes CRIU use nftables."""
    return int(_rpc.NFTABLES)


def cgroups_ignore() -> int:
    """Return the value of criu_opts.manage_cgroups_mode that leaves cgroups to the runtime."""
    return int(_rpc.IGNORE)


def memory_map() -> Any:
    """Return the message class of mm.proto: mm_entry, with the mappings of a process."""
    return _mm.mm_entry


def fdinfo() -> Any:
    """Return the module of fdinfo.proto's message classes: file_entry and the entries in it."""
    return _fdinfo


def inventory() -> Any:
    """Return the message class of inventory.proto: inventory_entry, about a dump as a whole."""
    return _inventory.inventory_entry


def process_tree() -> Any:
    """Return the message class of pstree.proto: pstree_entry, a process and its threads."""
    return _pstree.pstree_entry


@functools.cache
def thread() -> Any:
    """Return the message class of core.proto: core_entry, of one thread.

    Names of processes (`comm`) are bytes in it: they need be no text, and some of protobuf's
    parsers refuse a string that is none. The first call takes some 30 ms in pure Python.
    """
    pool = descriptor_pool.DescriptorPool()
    _add(pool, _core.DESCRIPTOR, set())
    # protobuf has the former from 4.22 on, and the latter up to 4.25.
    made_by: Any = message_factory
    class_of = (
        getattr(made_by, "GetMessageClass", None) or made_by.MessageFactory(pool).GetPrototype
    )
    return class_of(pool.FindMessageTypeByName("core_entry"))


def _add(pool: Any, file: Any, added: set[str]) -> None:
    """Add a .proto file to a pool, and first those that it imports, with names as bytes."""
    if file.name in added:
        return
    added.add(file.name)
    for imported in file.dependencies:
        _add(pool, imported, added)
    found = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(found)
    for field in (field for message in found.message_type for field in message.field):
        if field.name == "comm":
            field.type = field.TYPE_BYTES
    pool.AddSerializedFile(found.SerializeToString())

"""Kinds of strings and numbers that come from another host, each with its bounds (schema.py)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Annotated

from checkpoint.schema import Check, Harmless, Length, Pattern, Range

PAGE_SIZE = 4096
#: The bits of the longest addresses: those of five-level page tables.
ADDRESS_BITS = 57


def _is_absolute(path: str) -> bool:
    return path.startswith("/") and "\0" not in path


def _is_inside(path: str) -> bool:
    return _is_absolute(path) and ".." not in path.split("/")


def _is_relative(path: str) -> bool:
    return "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def holds(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return holds


#: Text for people, of one line, made harmless to terminals.
Text = Annotated[str, Harmless(4096)]
#: A word without blanks: the name of a program or processor, a version, a release.
Word = Annotated[str, Pattern(r"[!-~]{0,128}")]
#: A host's name (sethostname(2): 64 bytes), without blanks and characters that control a terminal.
HostName = Annotated[str, Pattern(r"[!-~]{0,64}")]
#: An instant of CLOCK_MONOTONIC.
Nanoseconds = Annotated[int, Range(0, (1 << 63) - 1)]
#: A time of a file, which may be before 1970 (utimensat(2)).
FileTime = Annotated[int, Range(-(1 << 63), (1 << 63) - 1)]
Microseconds = Annotated[int, Range(0, 1 << 53)]
#: A number of bytes of memory or of files.
Size = Annotated[int, Range(0, 1 << 60)]
Count = Annotated[int, Range(0, 1 << 48)]

#: The path of a file of a host, as users of that host write it.
AbsolutePath = Annotated[str, Length(4095), Check("an absolute path", _is_absolute)]
#: The path of a file or directory as a container sees it. Joined to the container's root it leads
#: out only through symbolic links.
ContainerPath = Annotated[str, Length(4095), Check("an absolute path without '..'", _is_inside)]
#: The path of a thing in a tree, relative to its root. It is never the root itself.
RelativePath = Annotated[str, Length(4095), Check("a path within a tree", _is_relative)]
#: The path of a thing in a tree, as RelativePath, or "", which is the root itself.
TreePath = Annotated[
    str, Length(4095), Check("a path within a tree", lambda path: not path or _is_relative(path))
]

#: A container's name or id in its engine (runc: libcontainer/factory_linux.go, validateID; podman
#: and docker allow less). It has no leading dash, because it becomes an argument of programs.
ContainerName = Annotated[str, Pattern(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}")]
#: The id that the kernel gives itself at each boot (random(4), boot_id).
BootId = Annotated[str, Pattern(r"[0-9a-f-]{36}")]
#: The digest of a layer of a container image (OCI image spec, descriptor.md).
Digest = Annotated[str, Pattern(r"sha256:[0-9a-f]{64}")]
#: The name of an image file that CRIU writes.
ImageName = Annotated[str, Pattern(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,123}\.img")]

#: The name of an interface, as dev_valid_name() of net/core/dev.c and IFNAMSIZ allow, without names
#: that nft(8) and ip(8) do not take for one.
INTERFACE_NAME = Pattern(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,14}")
InterfaceName = Annotated[str, INTERFACE_NAME]
MacAddress = Annotated[str, Pattern(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")]
_ADDRESS = Pattern(r"[0-9a-f.:]{2,45}")
_NETWORK = Pattern(r"[0-9a-f.:]{2,45}/[0-9]{1,3}")
Ipv4Address = Annotated[str, _ADDRESS, Check("an IPv4 address", _parses(ipaddress.IPv4Address))]
IpAddress = Annotated[str, _ADDRESS, Check("an IP address", _parses(ipaddress.ip_address))]
#: ADDRESS/PREFIX of an interface.
StationAddress = Annotated[
    str, _NETWORK, Check("an address with its prefix", _parses(ipaddress.ip_interface))
]
#: The destination of a route: `default`, ADDRESS/PREFIX of a network, or ADDRESS.
RouteDestination = Annotated[
    str,
    Pattern(r"default|[0-9a-f.:]{2,45}(/[0-9]{1,3})?"),
    Check("a network", lambda text: text == "default" or _parses(ipaddress.ip_network)(text)),
]
#: The path at which a network namespace is bound. It becomes an argument of programs.
NamespacePath = Annotated[str, Length(255), Pattern(r"(/[A-Za-z0-9_@:+-][A-Za-z0-9_.@:+-]*)+")]

#: An address that is a multiple of the size of a page.
PageAddress = Annotated[int, Range(0, 1 << ADDRESS_BITS, PAGE_SIZE)]
PageCount = Annotated[int, Range(1, (1 << ADDRESS_BITS) // PAGE_SIZE)]
#: The dst_id of an address space, as CRIU's page server numbers it:
#: id << 8 | type (criu/page_server.py).
DstId = Annotated[
    int,
    Range(0, (1 << 64) - 1),
    Check("the dst_id of a process's or of shared memory", lambda dst_id: dst_id & 0xFF in (1, 2)),
]

"""The messages between coordinator and agent: typed, allow-listed, versioned data. No I/O here.

How one becomes a frame is in migrate/message.py; anything else than what is declared below is refused.
Requests are answered in order; `Images`, for one, are not answered at all, so that they can be streamed: what goes
wrong with them is told in the answer to the next request. `Pages` travel on channels of their own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from migrate.message import Message, ProtocolError, decode, encode

__all__ = ["Message", "ProtocolError", "decode", "encode"]

PROTOCOL_VERSION = 1

# --- coordinator to agent -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Hello(Message):
    """First message. The agent refuses a version that is not its own."""

    version: int
    migration_id: str
    runtime: str
    container_id: str


@dataclass(frozen=True, kw_only=True)
class Ping(Message):
    """Asks for the agent's clock. Fails if pages did that came before."""


@dataclass(frozen=True, kw_only=True)
class CheckAddresses(Message):
    """Does anybody but the container (`mac` on `link`) use these IPv4 addresses?"""

    addresses: list  # type: ignore[type-arg]  # of [address, mac, bridge]


@dataclass(frozen=True, kw_only=True)
class CheckPaths(Message):
    """Which bind-mount sources are missing, is the tree shared, and are the container's own paths free?"""

    required: list  # type: ignore[type-arg]
    own: list  # type: ignore[type-arg]
    probe: str
    probe_token: str


@dataclass(frozen=True, kw_only=True)
class Examine(Message):
    """Can the engine there take this container in? `description` is what the engine here says of it."""

    description: dict  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class AwaitImage(Message):
    """The image will come, as files. `key` is the same for the same image: what came before needs not come again."""

    key: str


@dataclass(frozen=True, kw_only=True)
class LoadImage(Message):
    """It has come: have the engine take it in, and drop the files."""


@dataclass(frozen=True, kw_only=True)
class Prepare(Message):
    """Have the engine make what it can of the container examined before.

    The payload is what the engine here has packed, `network` is Network.to_wire(), or None where the engine makes it;
    `shared`: the container's files need not be sent.

    `room_bytes` bounds what the move may put into RAM there: images and the page store. So many
    `page_channels` will be opened.
    """

    shared: bool
    network: dict | None  # type: ignore[type-arg]
    room_bytes: int
    page_channels: int


@dataclass(frozen=True, kw_only=True)
class Arm(Message):
    """Start the engine's restore and hold it at its RESTORE request.

    `macs` are the container's, if the engine makes its network; it is unplugged when that is there.
    """

    macs: list  # type: ignore[type-arg]
    nftables: bool
    one_cgroup: bool


@dataclass(frozen=True, kw_only=True)
class Freezing(Message):
    """The container stands still from now on. Not answered."""


@dataclass(frozen=True, kw_only=True)
class Images(Message):
    """Pieces of image files, each to be appended to its file. Not answered. The payload is the pieces."""

    pieces: list  # type: ignore[type-arg]  # of [name, bytes]


@dataclass(frozen=True, kw_only=True)
class Pages(Message):
    """Memory. Not answered. The payload is a batch as checkpoint/images/batch.py defines it.

    `number` counts the batches of all channels from 0; they take effect in that order.
    `final` pages are the dump's own and go into the images; others go to the page store.
    `forget` are images (their dst_id) of what is gone, whose pages are dropped before these come.
    """

    number: int
    extents: list  # type: ignore[type-arg]
    encoding: str
    digest: str
    final: bool
    forget: list  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class PageMap(Message):
    """Which of the pages sent ahead make up an image: extents are [vaddr, pages, lazy], in rising order.

    A long image comes in several. Not answered. Lazy pages stay in the store and are filled in, the others become
    images.
    """

    dst_id: int
    extents: list  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class Remove(Message):
    """Delete files of a tree that are gone on the source."""

    tree: str
    paths: list  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class SetTimes(Message):
    """Directories of a tree whose time of modification is another: [path, mtime_ns]."""

    tree: str
    directories: list  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class ListTree(Message):
    """Which files are in a tree by now? Directories do not count: runtimes make some, for mounts."""

    tree: str


@dataclass(frozen=True, kw_only=True)
class Output(Message):
    """More of the engine's log of the container's output, in its own format; whole lines. Not answered."""


@dataclass(frozen=True, kw_only=True)
class MakeTmpfs(Message):
    """Make the container's tmpfs mounts, empty. Other messages give their index in the answer."""

    mounts: list  # type: ignore[type-arg]  # of [path in the container, options]


@dataclass(frozen=True, kw_only=True)
class RemoveInTmpfs(Message):
    """Paths in one of them that are gone. Not answered."""

    index: int
    paths: list  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class TmpfsArchive(Message):
    """A piece of a tar archive to be unpacked in one of them. Not answered. The payload is the piece."""

    index: int
    last: bool


@dataclass(frozen=True, kw_only=True)
class Restore(Message):
    """Everything was sent: this many image files and bytes, this many batches. Restore, and hold it."""

    image_files: int
    image_bytes: int
    batches: int


@dataclass(frozen=True, kw_only=True)
class Go(Message):
    """The source is dead. Link up, announce, resume.

    The payload is the frames that came for the container meanwhile (checkpoint/network/frames.py).
    """

    frames: list  # type: ignore[type-arg]  # of [index of the interface, bytes]


@dataclass(frozen=True, kw_only=True)
class Abort(Message):
    """Undo everything; the container stays on the source."""


@dataclass(frozen=True, kw_only=True)
class Finish(Message):
    """Nothing more is to come: clean up what only the move needed, and end."""


# --- agent to coordinator -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Welcome(Message):
    """Answer to Hello. `facts` is Facts.to_wire()."""

    version: int
    facts: dict  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class Clock(Message):
    """Answer to Ping: CLOCK_MONOTONIC of the agent's host, in ns."""

    monotonic_ns: int


@dataclass(frozen=True, kw_only=True)
class Done(Message):
    """Answer to a request that has nothing else to say. `stamps` are [name, monotonic_ns]."""

    stamps: list = dataclasses.field(default_factory=list)  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class Examined(Message):
    """Answer to Examine: why it cannot, for people. `layers`: if the image lacks, those of its layers that do not."""

    objections: list  # type: ignore[type-arg]
    layers: list | None  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class ImageAwaited(Message):
    """Answer to AwaitImage: the directory where its files go."""

    directory: str


@dataclass(frozen=True, kw_only=True)
class Prepared(Message):
    """Answer to Prepare: where trees can be filled by now, by their destination in the container."""

    trees: dict  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class Armed(Message):
    """Answer to Arm: likewise; now all can."""

    trees: dict  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class TreeListed(Message):
    """Answer to ListTree: relative paths."""

    paths: list  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class Finished(Message):
    """Nothing of the move is left there, and all memory is in place.

    `waits`: how many pages a task waited for, and for how long at most in us: median, 99th of a hundred, worst.
    """

    stamps: list  # type: ignore[type-arg]  # as in Done
    filled_bytes: int
    waits: list  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class TmpfsMade(Message):
    """Those that could be made; CRIU is left with the others."""

    paths: list  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class AddressesFound(Message):
    """Answer to CheckAddresses: [address, mac] of stations that are not the container."""

    taken: list  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class PathsFound(Message):
    """Answer to CheckPaths."""

    missing: list  # type: ignore[type-arg]
    taken: list  # type: ignore[type-arg]
    shared: bool


@dataclass(frozen=True, kw_only=True)
class Failed(Message):
    """Answer to a request that failed. `kind` is the class name of the error; `detail` may be empty."""

    kind: str
    text: str
    detail: list = dataclasses.field(default_factory=list)  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class Log(Message):
    """A line for whoever watches the move. May come before any answer."""

    text: str


REQUESTS: tuple[type[Message], ...] = (
    Hello,
    Ping,
    CheckAddresses,
    CheckPaths,
    Examine,
    AwaitImage,
    LoadImage,
    Prepare,
    Arm,
    Freezing,
    Images,
    PageMap,
    Remove,
    SetTimes,
    ListTree,
    Output,
    MakeTmpfs,
    RemoveInTmpfs,
    TmpfsArchive,
    Restore,
    Go,
    Abort,
    Finish,
)
#: Of these, those that are not answered.
STREAMED: tuple[type[Message], ...] = (Freezing, Images, PageMap, Output, RemoveInTmpfs, TmpfsArchive)
PAGES: tuple[type[Message], ...] = (Pages,)
ANSWERS: tuple[type[Message], ...] = (
    Welcome,
    Clock,
    Done,
    Examined,
    ImageAwaited,
    Prepared,
    Armed,
    TreeListed,
    Finished,
    TmpfsMade,
    AddressesFound,
    PathsFound,
    Failed,
    Log,
)

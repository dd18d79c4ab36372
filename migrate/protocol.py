"""The messages between coordinator and agent: typed, bounded, versioned data. No I/O here.

How one becomes a frame is in migrate/message.py, what stands inside is in migrate/values.py; anything else than what is
declared is refused. Requests are answered in order. Long lists come in several messages: a frame's header is bounded.
"""

from __future__ import annotations

from typing import Annotated

from checkpoint.bounded import (
    AbsolutePath,
    ContainerName,
    ContainerPath,
    Count,
    Digest,
    ImageId,
    MacAddress,
    Nanoseconds,
    RelativePath,
    Size,
    Text,
    Word,
)
from checkpoint.images.batch import PageExtent
from checkpoint.network.model import Network
from checkpoint.rootfs.changes import FileState
from checkpoint.rootfs.tmpfs import Tmpfs, TmpfsIndex
from checkpoint.schema import JsonObject, Length, Pattern
from migrate.facts import Facts
from migrate.message import (
    Answer,
    Command,
    Message,
    Payload,
    ProtocolError,
    Request,
    Streamed,
    check_sum,
    decode,
    encode,
    payload_of,
)
from migrate.values import (
    Area,
    Channels,
    DirectoryTime,
    ImagePiece,
    LateFrame,
    LogFile,
    MapExtent,
    MigrationId,
    OwnAddress,
    Probe,
    Stamps,
    Station,
    Waits,
)

__all__ = [
    "Answer",
    "Command",
    "Message",
    "ProtocolError",
    "Request",
    "Streamed",
    "decode",
    "encode",
    "payload_of",
]

PROTOCOL_VERSION = 2


class Failed(Answer):
    """Answer to a request that failed. `kind` is the class name of the error; `detail` may be empty."""

    kind: Annotated[str, Pattern(r"[A-Za-z_][A-Za-z0-9_]{0,63}")]
    text: Text
    detail: Annotated[tuple[Text, ...], Length(64)] = ()


class Log(Answer):
    """A line for whoever watches the move. May come before any answer."""

    text: Text


class Done(Answer):
    """Answer to a request that has nothing else to say."""


# --- before anything is changed -----------------------------------------------------------------


class Welcome(Answer):
    """Answer to Hello."""

    version: Count
    facts: Facts


class Hello(Request[Welcome]):
    """First message. The agent refuses a version that is not its own, and a container that another task has."""

    version: Count
    migration_id: MigrationId
    source: Text
    runtime: Word
    container_id: ContainerName


class Clock(Answer):
    """Answer to Ping: CLOCK_MONOTONIC of the agent's host."""

    monotonic_ns: Nanoseconds


class Ping(Request[Clock]):
    """Asks for the agent's clock. Fails if pages did that came before."""


class AddressesFound(Answer):
    """Answer to CheckAddresses: stations that are not the container."""

    taken: tuple[Station, ...]


class CheckAddresses(Request[AddressesFound]):
    """Does anybody but the container use these addresses?"""

    addresses: Annotated[tuple[OwnAddress, ...], Length(4096)]


class PathsFound(Answer):
    """Answer to CheckPaths: those of `required` that are missing, those of `own` that are taken."""

    missing: tuple[AbsolutePath, ...]
    taken: tuple[AbsolutePath, ...]
    shared: bool


class CheckPaths(Request[PathsFound]):
    """Which bind-mount sources are missing, is the tree shared, and are the container's own paths free?"""

    required: tuple[AbsolutePath, ...]
    own: tuple[AbsolutePath, ...]
    probe: Probe | None


class Examined(Answer):
    """Answer to Examine: why it cannot, for people. `layers`: if the image lacks, those of its layers that do not."""

    objections: Annotated[tuple[Text, ...], Length(256)]
    layers: Annotated[tuple[Digest, ...], Length(4096)] | None


class Examine(Request[Examined]):
    """Can the target's engine take this container in? `description` is what the source's engine says of it."""

    description: JsonObject


# --- while the container runs -------------------------------------------------------------------


class AwaitImage(Request[Done]):
    """The image's files will come as a tree (plugs.IMAGE). An equal `key` goes on where an image has come in part."""

    key: Annotated[str, Pattern(r"[0-9a-f]{64}")]


class LoadImage(Request[Done]):
    """It has come: have the engine take it in, and drop the files."""


class Prepared(Answer):
    """Answer to Prepare: the trees that can be filled by now, by their destination in the container."""

    trees: tuple[ContainerPath, ...]


class Prepare(Request[Prepared]):
    """Have the engine make what it can of the container examined before.

    The payload is what the source's engine has packed, `network` is None where the engine makes it; `shared`: the
    container's files need not be sent. `room_bytes` bounds the target's RAM that images and the page store may take.
    """

    shared: bool
    network: Network | None
    room_bytes: Size
    page_channels: Channels
    payload: Payload = b""


class TmpfsMade(Answer):
    """Answer to MakeTmpfs: the paths of those that could be made; CRIU is left with the others."""

    paths: tuple[ContainerPath, ...]


class MakeTmpfs(Request[TmpfsMade]):
    """Make the container's tmpfs mounts, empty. Other messages give their index in the answer."""

    mounts: Annotated[tuple[Tmpfs, ...], Length(4096)]


class ArmTmpfs(Request[Done]):
    """Start what unpacks the next archive in each tmpfs mount; the answer comes when all of it waits for that."""


class TmpfsArchive(Streamed):
    """A piece of a tar archive to be unpacked in a tmpfs mount. The payload is the piece."""

    index: TmpfsIndex
    last: bool
    payload: Payload = b""


class RemoveInTmpfs(Streamed):
    """Paths in a tmpfs mount that are gone."""

    index: TmpfsIndex
    paths: tuple[RelativePath, ...]


class Armed(Answer):
    """Answer to Arm: like Prepared; now all can."""

    trees: tuple[ContainerPath, ...]


class Arm(Request[Armed]):
    """Start the engine's restore and hold it at its RESTORE request.

    `macs` are the container's, if the engine makes its network; it is unplugged when that is there.
    """

    macs: Annotated[tuple[MacAddress, ...], Length(64)]
    nftables: bool
    one_cgroup: bool


class TreeListed(Answer):
    """Answer to ListTree and ListTmpfs, in as many pieces as there are with `more` to come."""

    files: tuple[FileState, ...]
    more: bool

    @property
    def is_last(self) -> bool:
        return not self.more


class ListTree(Request[TreeListed]):
    """What is in a tree by now, all of it or by these paths? What is not there is left out."""

    tree: ContainerPath
    paths: tuple[RelativePath, ...] | None


class ListTmpfs(Request[TreeListed]):
    """What is in a tmpfs mount by now?"""

    index: TmpfsIndex


class Remove(Request[Done]):
    """Delete files of a tree that are gone on the source."""

    tree: ContainerPath
    paths: tuple[RelativePath, ...]


class SetTimes(Request[Done]):
    """Directories of a tree whose time of modification is another."""

    tree: ContainerPath
    directories: tuple[DirectoryTime, ...]


class Output(Streamed):
    """More of the engine's log of the container's output, in its own format; whole lines. The payload is the lines."""

    payload: Payload = b""


# --- memory and images --------------------------------------------------------------------------


class Pages(Message):
    """Memory, on channels of its own. The payload is a batch as checkpoint/images/batch.py defines it.

    `number` counts the batches of all channels from 0; they take effect in that order.
    `final` pages are the dump's own and go into the images; others go to the page store.
    `forget` are images (their dst_id) of what is gone, whose pages are dropped before these come.
    """

    number: Count
    extents: Annotated[tuple[PageExtent, ...], Length(4096)]
    encoding: Word
    digest: Annotated[str, Pattern(r"[0-9a-f]{8}")]
    final: bool
    forget: tuple[ImageId, ...]
    payload: Payload = b""


class Freezing(Streamed):
    """The container stands still from now on."""


class Images(Streamed):
    """Pieces of image files, each to be appended to its file. The payload is the pieces."""

    pieces: tuple[ImagePiece, ...]
    payload: Payload = b""

    def check(self) -> None:
        """Raise DataInvalid unless the payload is the pieces."""
        check_sum(sum(piece.bytes for piece in self.pieces), self.payload)


class PageMap(Streamed):
    """Which of the pages sent ahead make up an image, in rising order. A long image comes in several."""

    dst_id: ImageId
    extents: tuple[MapExtent, ...]


# --- the switch-over ----------------------------------------------------------------------------


class Held(Answer):
    """Answer to Restore: the container is restored and held.

    The payload is the digests of memory that were asked for (checkpoint/memory/proof.py), joined. They were made
    in `proof_us` microseconds; the container has so many `pages` in all.
    """

    stamps: Stamps
    pages: Count
    proof_us: Count
    payload: Payload = b""


class Restore(Request[Held]):
    """Everything was sent: this many image files and bytes, this many batches. Restore, and hold it.

    `proof_seed` draws the pages whose digests the answer has, of all if None; the areas `left_out` count as zeros.
    """

    image_files: Count
    image_bytes: Size
    batches: Count
    proof_seed: Annotated[str, Pattern(r"[0-9a-f]{32}")] | None
    left_out: tuple[Area, ...]


class Resumed(Answer):
    """Answer to Go: when the target took it, when the container ran, and what CRIU stamped besides."""

    go_ns: Nanoseconds
    resumed_ns: Nanoseconds
    stamps: Stamps


class Go(Request[Resumed]):
    """The source is dead. Link up, announce, resume.

    The payload is the frames that came for the container meanwhile (checkpoint/network/frames.py).
    """

    frames: tuple[LateFrame, ...]
    payload: Payload = b""

    def check(self) -> None:
        """Raise DataInvalid unless the payload is the frames."""
        check_sum(sum(frame.bytes for frame in self.frames), self.payload)


class LogsFound(Answer):
    """Answer to Logs: the ends of log files. The payload is their contents, joined."""

    files: Annotated[tuple[LogFile, ...], Length(16)]
    payload: Payload = b""

    def check(self) -> None:
        """Raise DataInvalid unless the payload is the files."""
        check_sum(sum(file.bytes for file in self.files), self.payload)


class Logs(Request[LogsFound]):
    """What is there that tells why the move fails? May come at any time, also after a failure."""


class Abort(Request[Done]):
    """Undo everything; the container stays on the source."""


class Finished(Answer):
    """Answer to Finish: nothing of the move is left on the target, and all memory is in place."""

    stamps: Stamps
    filled_bytes: Size
    waits: Waits


class Finish(Request[Finished]):
    """Nothing more is to come: clean up what only the move needed, and end."""

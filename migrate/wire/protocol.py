"""The messages between coordinator and agent: typed, bounded, versioned data. No I/O here.

message.py makes frames of messages; values.py has the types of values in them. What is not
declared is refused. The agent answers requests in the order in which they come. A long list
is sent in several messages, because the header of a frame is bounded.
"""

from __future__ import annotations

from typing import Annotated

from checkpoint.bounded import (
    AbsolutePath,
    ContainerName,
    ContainerPath,
    Count,
    Digest,
    DstId,
    MacAddress,
    Nanoseconds,
    RelativePath,
    Size,
    Text,
    TreePath,
    Word,
)
from checkpoint.files.changes import FileState
from checkpoint.files.tmpfs import Tmpfs, TmpfsIndex
from checkpoint.network.model import Network
from checkpoint.schema import JsonObject, Length, Pattern
from migrate.decisions.compatibility import Facts
from migrate.wire.message import (
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
from migrate.wire.values import (
    Area,
    Channels,
    DirectoryTime,
    ImagePiece,
    LateFrame,
    LogFile,
    MapExtent,
    MigrationId,
    OwnAddress,
    PageExtent,
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

PROTOCOL_VERSION = 6


class Failed(Answer):
    """The answer to a failed request: the error's kind (causes.kind_of), text, and CRIU's log."""

    kind: Annotated[str, Pattern(r"[A-Za-z_][A-Za-z0-9_]{0,63}")]
    text: Text
    detail: Annotated[tuple[Text, ...], Length(64)] = ()


class Log(Answer):
    """A line of text for the user. The agent may send it before any answer."""

    text: Text


class Trace(Answer):
    """A record of the agent's own log (logging.LogRecord), if Hello asked for records.

    `at_ms` is the target's wall clock in milliseconds since 1970. The agent may send it before any
    answer.
    """

    at_ms: Count
    thread: Text
    logger: Text
    text: Text


class Done(Answer):
    """The answer to a request that has no data to return."""


# --- before anything is changed -----------------------------------------------------------------


class Welcome(Answer):
    """The answer to Hello: the agent's protocol version and the facts of the target."""

    version: Count
    facts: Facts


class Hello(Request[Welcome]):
    """The first message. The agent refuses another version, and a container that is locked.

    `traces` asks for the records of the agent's log.
    """

    version: Count
    migration_id: MigrationId
    source: Text
    engine: Word
    container_name: ContainerName
    traces: bool


class Clock(Answer):
    """The answer to Ping: CLOCK_MONOTONIC of the target, and how many batches are in place."""

    monotonic_ns: Nanoseconds
    batches: Count


class Ping(Request[Clock]):
    """The question for the target's clock.

    It fails if a batch of pages has failed before, or if a held container cannot be resumed.
    """


class AddressesFound(Answer):
    """The answer to CheckAddresses: other stations than the container that use its addresses."""

    taken: tuple[Station, ...]


class CheckAddresses(Request[AddressesFound]):
    """The question whether a station other than the container uses one of these addresses."""

    addresses: Annotated[tuple[OwnAddress, ...], Length(4096)]


class PathsFound(Answer):
    """The answer to CheckPaths. `shared`: the target sees the probe, so both share the tree."""

    missing: tuple[AbsolutePath, ...]
    taken: tuple[AbsolutePath, ...]
    shared: bool


class CheckPaths(Request[PathsFound]):
    """The question whether bind-mount sources exist, own paths are free, and a tree is shared.

    `required` are the sources, `own` the container's own paths; `probe` is a file in its rootfs.
    """

    required: tuple[AbsolutePath, ...]
    own: tuple[AbsolutePath, ...]
    probe: Probe | None


class Examined(Answer):
    """The answer to Examine; the objections of the target's engine are for people.

    `layers` are those that the target has of a container image that it does not have.
    """

    objections: Annotated[tuple[Text, ...], Length(256)]
    layers: Annotated[tuple[Digest, ...], Length(4096)] | None


class Examine(Request[Examined]):
    """The question whether the target's engine can take in what the source's engine describes."""

    description: JsonObject


# --- while the container runs -------------------------------------------------------------------


class Outlast(Request[Done]):
    """The request to outlast the connection until Arm, and to wait for another so many seconds.

    The coordinator comes back by a channel of its own (TakeUp of plug_command.py).
    """

    seconds: Count


class BatchesThere(Answer):
    """The answer to RenewPages: `in_place` batches are in place, and those in `beyond` have come.

    The latter wait for the batches between.
    """

    in_place: Count
    beyond: Annotated[tuple[Count, ...], Length(4096)]


class RenewPages(Request[BatchesThere]):
    """The request to let go of the page channels, in whose place as many others come."""


class AwaitContainerImage(Request[Done]):
    """The request to take a container image as the tree IMAGE of plug_command.py.

    An equal `key` resumes it.
    """

    key: Annotated[str, Pattern(r"[0-9a-f]{64}")]


class LoadContainerImage(Request[Done]):
    """The request to load the container image, whose files have come, and to remove the files."""


class Prepared(Answer):
    """The answer to Prepare: the trees that can be filled now, by destination in the container."""

    trees: tuple[ContainerPath, ...]


class Prepare(Request[Prepared]):
    """The request to make what can be made of the container that Examine described.

    The payload is what the source's engine packed. `network` is None if the engine makes it.
    `shared`: files need not be sent. `room_bytes` bounds the RAM for image files and the page
    store.
    """

    shared: bool
    network: Network | None
    room_bytes: Size
    page_channels: Channels
    payload: Payload = b""


class TmpfsMade(Answer):
    """The answer to MakeTmpfs: the mount points that were made. CRIU carries the other mounts."""

    paths: tuple[ContainerPath, ...]


class MakeTmpfs(Request[TmpfsMade]):
    """The request to make tmpfs mounts, empty. Other messages name one by its index in `paths`."""

    mounts: Annotated[tuple[Tmpfs, ...], Length(4096)]


class ArmTmpfs(Request[Done]):
    """The request to start a tar per writable mount; answered when all wait for an archive."""


class TmpfsArchive(Streamed):
    """A piece, as the payload, of a tar archive to be unpacked in a tmpfs mount."""

    index: TmpfsIndex
    last: bool
    payload: Payload = b""


class RemoveInTmpfs(Streamed):
    """The paths in a tmpfs mount that no longer exist on the source and are to be removed."""

    index: TmpfsIndex
    paths: tuple[RelativePath, ...]


class Armed(Answer):
    """The answer to Arm: all trees, by destination in the container. Now all can be filled."""

    trees: tuple[ContainerPath, ...]


class Arm(Request[Armed]):
    """The request to start the engine's restore and hold it at its RESTORE request.

    `macs` are the container's if the engine makes its network; those links are then taken down.
    """

    macs: Annotated[tuple[MacAddress, ...], Length(64)]
    nftables: bool
    one_cgroup: bool


class TreeListed(Answer):
    """One piece of the answer to ListTree or ListTmpfs; `more` says whether another follows."""

    files: tuple[FileState, ...]
    more: bool

    @property
    def is_last(self) -> bool:
        return not self.more


class ListTree(Request[TreeListed]):
    """The question what is in a tree, or at `paths` in it; the answer leaves out missing paths."""

    tree: ContainerPath
    paths: tuple[TreePath, ...] | None


class ListTmpfs(Request[TreeListed]):
    """The question what a tmpfs mount contains."""

    index: TmpfsIndex


class Remove(Request[Done]):
    """The request to remove files of a tree that no longer exist on the source."""

    tree: ContainerPath
    paths: tuple[RelativePath, ...]


class SetTimes(Request[Done]):
    """The request to set the modification times of directories in a tree."""

    tree: ContainerPath
    directories: tuple[DirectoryTime, ...]


class Output(Streamed):
    """Whole lines, as payload, of the engine's log of the container's output, in its own format."""

    payload: Payload = b""


# --- memory and images --------------------------------------------------------------------------


class Pages(Message):
    """A batch of pages, on a page channel. Its payload is defined in migrate/memory/batches.py.

    `number` counts the batches of all channels from 0; they take effect in that order.
    With `into_images` the pages come from CRIU's dump and go into image files; others go to the
    page store.
    `forget` are dst_ids of address spaces that ended, whose pages are dropped before these come.
    """

    number: Count
    extents: Annotated[tuple[PageExtent, ...], Length(4096)]
    encoding: Word
    digest: Annotated[str, Pattern(r"[0-9a-f]{8}")]
    into_images: bool
    forget: tuple[DstId, ...]
    payload: Payload = b""


class Freezing(Streamed):
    """The notice that the freeze begins."""


class CriuImages(Streamed):
    """Pieces of image files, each to be appended to its file. The payload is the pieces, joined."""

    pieces: tuple[ImagePiece, ...]
    payload: Payload = b""

    def check(self) -> None:
        """Raise DataInvalid unless the payload is as long as the pieces."""
        check_sum(sum(piece.bytes for piece in self.pieces), self.payload)


class PageMap(Streamed):
    """The pages in the store of one address space, in rising order; maybe in several messages."""

    dst_id: DstId
    extents: tuple[MapExtent, ...]


class Beat(Streamed):
    """The sign that the coordinator lives. Without any frame for a while it counts as gone."""


# --- the switch-over ----------------------------------------------------------------------------


class Held(Answer):
    """The answer to Restore: the container is restored and held.

    The payload is the requested digests of memory (checkpoint/memory/proof.py), joined. The target
    made them in `proof_us` microseconds. The container has `pages` pages in all.
    """

    stamps: Stamps
    pages: Count
    proof_us: Count
    payload: Payload = b""


class Restore(Request[Held]):
    """The request to restore the container and hold it.

    `image_files`, `image_bytes` and `batches` are how much was sent, which the target compares with
    what has come. `proof_seed` draws the pages to be digested; None means all pages. The areas
    `left_out` are digested as zeros.
    """

    image_files: Count
    image_bytes: Size
    batches: Count
    proof_seed: Annotated[str, Pattern(r"[0-9a-f]{32}")] | None
    left_out: tuple[Area, ...]


class Resumed(Answer):
    """The answer to Go: when GO came, when the container ran, and CRIU's notifications."""

    go_ns: Nanoseconds
    resumed_ns: Nanoseconds
    stamps: Stamps


class Go(Request[Resumed]):
    """GO: the source's container is dead, and the held one is to be connected and resumed.

    The payload is the frames that the source kept in the freeze (checkpoint/network/frames.py).
    """

    frames: tuple[LateFrame, ...]
    payload: Payload = b""

    def check(self) -> None:
        """Raise DataInvalid unless the payload is as long as the frames."""
        check_sum(sum(frame.bytes for frame in self.frames), self.payload)


class LogsFound(Answer):
    """The answer to Logs: the ends of log files. The payload is their contents, joined."""

    files: Annotated[tuple[LogFile, ...], Length(16)]
    payload: Payload = b""

    def check(self) -> None:
        """Raise DataInvalid unless the payload is as long as the files."""
        check_sum(sum(file.bytes for file in self.files), self.payload)


class Logs(Request[LogsFound]):
    """The request for logs that say why the migration fails; at any time, also after a failure."""


class Abort(Request[Done]):
    """The request to undo everything on the target; the container stays on the source."""


class Finished(Answer):
    """The answer to Finish: memory is in place, and what only the migration needed is removed."""

    stamps: Stamps
    filled_bytes: Size
    waits: Waits


class Finish(Request[Finished]):
    """The last request: fill in all memory, remove what only the migration needed, and end."""


# --- for a migration whose agent cannot be asked ------------------------------------------------


class Recovered(Answer):
    """The answer to Recover: the last state of this host's half, and what came of the word.

    `state` is None if the host has no journal of the migration. `outcome` is one of control.py's.
    If the host is the source, `life` says how the container's init is (decisions/takeover.py), and
    `goes_on` whether a program of the migration lives.
    """

    state: Annotated[str, Pattern(r"[a-z ]{1,40}")] | None
    life: Annotated[str, Pattern(r"lives|dying|dead|anew")] | None
    goes_on: bool
    outcome: Annotated[str, Pattern(r"ok|refused|failed|nobody|lost")]
    text: Text


class Recover(Request[Recovered]):
    """A word to whatever holds the container of a migration there: the only request of its agent.

    The word is one of control.py's. `frames` and the payload are those of Go.
    """

    migration_id: MigrationId
    word: Annotated[str, Pattern(r"[a-z -]{1,40}")]
    frames: tuple[LateFrame, ...]
    payload: Payload = b""

    def check(self) -> None:
        """Raise DataInvalid unless the payload is as long as the frames."""
        check_sum(sum(frame.bytes for frame in self.frames), self.payload)

"""The entries of a migration's journal, and their form as JSON objects. No I/O here.

The first entry is Begun, and an Ended is the last one. A host's journal has only what that host did
or saw itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from checkpoint import schema
from checkpoint.bounded import BootId, ContainerName, Text, Word
from checkpoint.errors import DataInvalid
from checkpoint.schema import Harmless, JsonObject, Pattern
from migrate.wire.values import MigrationId

#: The key of an entry that names its class.
ENTRY = "entry"
#: Milliseconds since 1970 (CLOCK_REALTIME). They are for people: a clock may be set back.
UnixMs = int
#: The name of a state of either half of a migration (decisions/state.py, agent/state.py).
StateName = Annotated[str, Pattern(r"[a-z ]{1,40}")]
#: The host that a journal is on, as one end of its migration.
Side = Annotated[str, Pattern("source|target")]
SOURCE, TARGET = "source", "target"


class ProcessRecord(NamedTuple):
    """A process of the host that has the journal: its pid, and when it was started.

    `start_ticks` is field 22 of proc_pid_stat(5). Together with the boot's id, the two numbers name
    one process for ever.
    """

    pid: int
    start_ticks: int


@dataclass(frozen=True, kw_only=True)
class Begun:
    """The beginning of a migration on one of its hosts, `side`.

    `source` and `target` are names of the hosts. `destination` is the target as the user wrote it
    on the source, from where it is reached by SSH. `container_id` is the engine's. `init` is the
    container's init on the source. A target's journal has none of these three. `process` carries
    out this host's half, and `stand_by` goes on if that is killed: coordinator and guardian, or
    agent and keeper.
    """

    at_ms: UnixMs
    boot_id: BootId
    migration_id: MigrationId
    side: Side
    engine: Word
    container_name: ContainerName
    source: Text
    target: Text
    destination: Annotated[str, Harmless(1024)] | None = None
    container_id: ContainerName | None = None
    init: ProcessRecord | None = None
    process: ProcessRecord | None = None
    stand_by: ProcessRecord | None = None

    def check(self) -> None:
        """Raise DataInvalid for a source's journal that does not name the container."""
        named = [self.destination, self.container_id, self.init]
        if self.side == SOURCE and None in named:
            raise DataInvalid(": a source's journal says which container leaves")


@dataclass(frozen=True, kw_only=True)
class Entered:
    """This host's half of the migration has entered a state, or is about to."""

    at_ms: UnixMs
    state: StateName


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Nothing of the migration is left to be done on this host.

    `outcome` is the last state. `error` is what the user was told, if there was an error.
    """

    at_ms: UnixMs
    outcome: StateName
    error: Text | None = None


@dataclass(frozen=True, kw_only=True)
class MadeThing:
    """This host has made a thing, whose JSON form is `thing` (checkpoint/undo.py).

    The thing is removed unless the migration succeeds; a `passing` one, if it does.
    """

    at_ms: UnixMs
    thing: JsonObject
    passing: bool = False


Entry = Begun | Entered | MadeThing | Ended
_KINDS: Mapping[str, Any] = {kind.__name__: kind for kind in (Begun, Entered, MadeThing, Ended)}


def encode(entry: Entry) -> dict[str, Any]:
    """Return an entry as a JSON object."""
    fields: Any = schema.plain(entry)
    return {ENTRY: type(entry).__name__, **fields}


def decode(found: Mapping[str, Any]) -> Entry:
    """Return the entry in a JSON object. Raises DataInvalid."""
    fields = dict(found)
    kind = _KINDS.get(str(fields.pop(ENTRY, None)))
    if kind is None:
        raise DataInvalid(f"{schema.shown(found.get(ENTRY))} is no entry of a journal")
    entry: Entry = schema.read_fields(kind, fields, {})
    return entry

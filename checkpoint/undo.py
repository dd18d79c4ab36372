"""What a migration makes on this host, and its removal: by this process, or by a later one.

A thing that was made is described by a value (Made), which says all that its removal needs. The
value has a JSON form, so that a journal can keep it: if this process is killed, another one reads
the journal and removes the thing. Things are known by their identity (checkpoint/host/identity.py),
never by their name alone, and a removal may be repeated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, dataclass_transform

from checkpoint import schema
from checkpoint.errors import DataInvalid
from checkpoint.host.identity import PathIdentity, PathRecord

#: The classes of things by name.
_KINDS: dict[str, type[Made]] = {}
#: The key of the JSON form that has the name of the class.
KIND = "kind"


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Made:
    """A thing on this host. Each subclass becomes a frozen keyword-only dataclass.

    Fields have kinds of checkpoint/schema.py. `on_disk`: the thing outlives a reboot.
    """

    on_disk: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True)(cls)
        _KINDS[cls.__name__] = cls

    def __str__(self) -> str:
        """Return what the thing is, for people."""
        raise NotImplementedError

    def remove(self) -> None:
        """Remove the thing, unless it is gone or its name has come to mean another.

        Raises OSError or CheckpointError.
        """
        raise NotImplementedError

    @property
    def paths(self) -> tuple[PathRecord, ...]:
        """The paths by whose identity the thing is known."""
        return tuple(_records(self))

    @property
    def is_certain(self) -> bool:
        """False if another process could take another thing for this one (PathRecord.unique)."""
        return all(record.unique for record in self.paths)

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        found: Any = schema.plain(self)
        return {KIND: type(self).__name__, **found}


def read(found: Mapping[str, Any]) -> Made:
    """Return the thing in a JSON form. Raises DataInvalid.

    The module that declares the class of the thing must have been imported.
    """
    values = dict(found)
    kind = _KINDS.get(str(values.pop(KIND, None)))
    if kind is None:
        raise DataInvalid(f"{schema.shown(found.get(KIND))} is nothing that can be removed")
    thing: Made = schema.read_fields(kind, values, {})
    return thing


class Undo(contextlib.ExitStack):
    """The undo of all that a migration has made: closing it removes everything, latest first.

    `note` is told of each thing as soon as it was made, to put it into a journal, and whether the
    thing is a passing one. What it raises is raised, and the thing is removed all the same when
    this is closed.
    """

    def __init__(self, note: Callable[[Made, bool], None] | None = None) -> None:
        super().__init__()
        self._note = note
        self._passing: list[Made] = []

    def made(self, thing: Made) -> None:
        """Enter a thing that was just made."""
        # Until it is removed, the inodes of its paths are kept from being given again.
        held = [PathIdentity(Path(record.path)) for record in thing.paths]
        self.callback(_remove, thing, held)
        if self._note is not None:
            self._note(thing, False)

    def passing(self, thing: Made) -> None:
        """Enter a thing that is there only until the migration succeeds, and `settle` removes.

        What else was made covers its removal if the migration is undone.
        """
        self._passing.append(thing)
        if self._note is not None:
            self._note(thing, True)

    def settle(self) -> None:
        """Remove the passing things. The first failure is raised when all were tried."""
        with contextlib.ExitStack() as stack:
            while self._passing:
                stack.callback(self._passing.pop().remove)


def _remove(thing: Made, held: list[PathIdentity]) -> None:
    try:
        thing.remove()
    finally:
        for identity in held:
            identity.close()


def _records(thing: Made) -> Iterator[PathRecord]:
    for field in fields(thing):  # type: ignore[arg-type]  # every subclass is a dataclass
        value = getattr(thing, field.name)
        if isinstance(value, PathRecord):
            yield value
        elif isinstance(value, tuple):
            yield from (each for each in value if isinstance(each, PathRecord))

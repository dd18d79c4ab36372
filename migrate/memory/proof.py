"""The source's side of the proof that the target restores the memory of the frozen container.

A thread makes the source's digests while the target restores. Both hosts do the same work at the
same time, and the freeze gets longer only if the target's restore is done first.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from checkpoint.criu.page_server import PAGE_SIZE, PS_TYPE_PID
from checkpoint.errors import ProcError
from checkpoint.host import proc
from checkpoint.host.processes import tree_of
from checkpoint.host.worker import Worker
from checkpoint.memory import proof
from checkpoint.memory.frozen import FrozenMemory, by_virtual_pid
from checkpoint.memory.proof import DIGEST_BYTES, Areas, Piece
from checkpoint.memory.ranges import Range
from checkpoint.schema import harmless
from migrate.errors import MemoryDiffers
from migrate.report import Proof
from migrate.wire import protocol

SEED_BYTES = 16
#: The priority (setpriority(2)) of the thread that digests, because the target may be on the same
#: processors.
NICE = 10


@dataclass(frozen=True, kw_only=True)
class _Made:
    """The source's digests, with None for what cannot be read, and the number of pages in all."""

    digests: list[tuple[Piece, bytes | None]]
    pages: int
    took_us: int


class MemoryProof:
    """One comparison of the frozen container's memory with the target's. Use as a context.

    `found_pages` returns the pages that CRIU found, by address space (dst_id).
    `init` is the pid of the container's init.
    `whole` has every page compared, not only a sample.
    The areas `left_out` are not compared.

    The container must be frozen during the context. Call `begin` once the target has the seed.
    """

    def __init__(
        self,
        found_pages: Callable[[], Mapping[int, list[Range]]],
        init: int,
        *,
        whole: bool,
        left_out: Areas,
    ) -> None:
        self.seed, self.whole = secrets.token_bytes(SEED_BYTES), whole
        self._left_out = left_out
        self._found_pages, self._init = found_pages, init
        self._made: Worker[_Made] | None = None

    def __enter__(self) -> MemoryProof:
        return self

    def __exit__(self, *_: object) -> None:
        if self._made is not None:
            self._made.wait()

    def begin(self) -> None:
        """Start to make the source's digests in a thread."""
        self._made = Worker("memory proof", self._make)

    def compare(self, held: protocol.Held) -> Proof:
        """Compare the source's digests with those that the target made of what it restores from.

        Returns the result for the report. Raises MemoryDiffers if the number of pages differs, and
        for the first page, or megabyte of pages, whose digest differs.
        """
        assert self._made is not None
        made, theirs = self._made.result(), bytes(held.payload)
        if held.pages != made.pages or len(theirs) != len(made.digests) * DIGEST_BYTES:
            raise MemoryDiffers(f"{held.pages} pages of memory arrived of {made.pages}")
        for index, (piece, digest) in enumerate(made.digests):
            if (
                digest is not None
                and theirs[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] != digest
            ):
                raise MemoryDiffers(
                    f"{_place(piece)} did not arrive as it was frozen"
                    f"{self._looked_again(piece, digest)}"
                )
        return self._report(made, held.proof_us)

    def _make(self) -> _Made:
        began_ns = time.monotonic_ns()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        found = self._found_pages()
        with FrozenMemory(by_virtual_pid(tree_of(self._init))) as memory:
            pieces = proof.pieces(found, None if self.whole else self.seed)
            digests = list(proof.digests(pieces, memory.read, self._left_out))
        took_us = (time.monotonic_ns() - began_ns) // 1000
        return _Made(digests=digests, pages=proof.page_count(found), took_us=took_us)

    def _looked_again(self, piece: Piece, first: bytes) -> str:
        """Return what else is known of memory that differs, as the end of the error's sentence.

        That is how the memory is mapped, and whether the source's memory has changed since. If it
        has, somebody writes to memory of the frozen container, and the copy may be right.
        """
        found = ""
        with contextlib.suppress(OSError, ProcError):  # the difference is reported anyway
            pids = by_virtual_pid(tree_of(self._init))
            if (
                piece.dst_id & 0xFF == PS_TYPE_PID
                and (pid := pids.get(piece.dst_id >> 8)) is not None
            ):
                of_it = [
                    each for each in proc.mappings(pid) if each.start <= piece.start < each.end
                ]
                found = "".join(
                    f", mapped {each.permissions} of {harmless(each.path) or 'nothing'}"
                    for each in of_it
                )
            with FrozenMemory(pids) as memory:
                [(_, again)] = proof.digests(iter([piece]), memory.read, self._left_out)
            found += "" if again == first else ", and is another one on the source by now"
        return found

    def _report(self, made: _Made, target_us: int) -> Proof:
        read = [piece for piece, digest in made.digests if digest is not None]
        compared = sum(piece.end - piece.start for piece in read) // PAGE_SIZE
        missed = (
            0.0
            if self.whole
            else proof.chance_to_miss(-(-made.pages // 1000), compared, made.pages)
        )
        return Proof(
            whole=self.whole,
            pages=made.pages,
            compared=compared,
            unreadable=len(made.digests) - len(read),
            miss_one_in_a_thousand=missed,
            source_us=made.took_us,
            target_us=target_us,
        )


def _place(piece: Piece) -> str:
    kind = "process" if piece.dst_id & 0xFF == PS_TYPE_PID else "shared memory"
    return f"memory of {kind} {piece.dst_id >> 8} at {piece.start:#x}"

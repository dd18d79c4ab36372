"""Tests of checkpoint/memory/pager/filler.py: memory comes in chunks."""

from __future__ import annotations

import contextlib

from checkpoint.criu.page_server import dst_id_of_process
from checkpoint.memory.pager.address_spaces import AddressSpaces
from checkpoint.memory.pager.filler import LEAST_CHUNK_BYTES, Filler
from checkpoint.memory.tracking.write_protection import PAGE_SIZE
from tests.unit.checkpoint.memory.pager.tasks import EVERY, PAGES, PID, Target, addresses


def test_what_was_written_again_comes_in_chunks_between_which_faults_are_served(
    target: Target,
) -> None:
    """All of the memory may be one piece."""
    task, all_pages = target.task(), {dst_id_of_process(PID): addresses((0, PAGES))}
    spaces = AddressSpaces(all_pages)
    with contextlib.ExitStack() as stack:
        stack.callback(spaces.close_all)
        filler = Filler(target.store, spaces)
        filler.watch(spaces.open(task.uffd, PID))
        filler.bring_first(all_pages)
        filler.turn(fill=False)
        assert len(task.present()) == LEAST_CHUNK_BYTES // PAGE_SIZE
        while len(task.present()) < PAGES:
            filler.turn(fill=False)
    assert task.stamps() == EVERY

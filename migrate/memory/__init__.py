"""The way of a page of memory from the source to the target, both ends of it.

Source, while the container runs:

    userfaultfd.py     a round: asks each tracker (checkpoint/memory/tracking) which pages were
                       written. soft_dirty.py and stop_copy.py are the other ways; copying.py is
                       what the three have in common.
    batches.py         reads pages, and gathers them into batches without zero pages; the form of a
                       batch: extents, bytes, digest
    channels.py        sends batches over SSH channels, several at once; encoding.py compresses them

Target:

    receiver.py        takes batches from the channels, checks them, and puts their pages into the
                       page store (checkpoint/memory/store.py)

Source, in the freeze:

    page_relay.py      serves CRIU's page server while it dumps
    page_map.py        lists the pages that CRIU found, and tells the target of them
    proof.py           compares digests of the frozen memory with the target's

On the target, checkpoint/memory/fold.py makes CRIU's memory images from the store, and the pager
(checkpoint/memory/pager) fills in the rest.
"""

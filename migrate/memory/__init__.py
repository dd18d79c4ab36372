"""The way of a page of memory from the source to the target, both ends of it.

Source, in each round while the container runs:

    userfaultfd.py     asks each tracker which pages were written (tracker.py, write_protection.py
                       of checkpoint/memory/tracking). soft_dirty.py and stop_copy.py are the other
                       ways to send memory; copying.py is what the three have in common.
    batches.py         reads the pages (checkpoint/memory/process_memory.py), and gathers them into
                       batches without zero pages; the form of a batch: extents, bytes, digest
    channels.py        compresses batches (encoding.py) and sends them over several SSH channels
                       (transport/openssh.py), no faster than allowed (transport/throttle.py). A
                       batch is a message (migrate/wire/message.py) in a frame
                       (transport/framing.py).

Target:

    migrate/agent/plug.py    hands the channel over to the agent
    receiver.py              takes batches from the channels, checks them, and puts their pages into
                             the page store (checkpoint/memory/store.py)

Source, in the freeze:

    page_relay.py      serves CRIU's page server while it dumps
    page_map.py        lists the pages that CRIU found, and tells the target of them
    proof.py           compares digests of the frozen memory with the target's

On the target, checkpoint/memory/fold.py makes CRIU's memory images from the store, and the pager
(checkpoint/memory/pager) fills in the rest.
"""

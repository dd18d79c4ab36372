"""Pages of memory on one host.

On the source, tracking/ finds out which pages were written. On the target, store.py has the pages
that came ahead, fold.py makes image files from them, and pager/ serves the rest. proof.py makes
digests on both.
"""

"""File trees that a container can write: looked at, copied and changed, but never trusted.

enclosure.py runs programs (rsync.py, tmpfs.py) in a mount namespace that shows only the tree.
beneath.py is the door for this process's own calls, by descriptors.
"""

"""The tracking of which pages a running process has written. It happens on the source.

inject.py has the process make a userfaultfd, write_protection.py asks the kernel, and tracker.py is
the two together for one process.
"""

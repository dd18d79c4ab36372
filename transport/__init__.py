"""The transport of bytes between hosts: framed streams over SSH.

This package knows nothing of containers.
"""

"""Bytes between hosts: framed streams over SSH. Knows nothing of containers."""

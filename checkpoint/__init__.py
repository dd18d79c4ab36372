"""The mechanism on one host: CRIU, engines, memory, images, network, files.

This package knows nothing of other hosts.
"""

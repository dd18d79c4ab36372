"""Mechanism on one host: CRIU, runtimes, images, network, rootfs. Knows nothing of other hosts."""

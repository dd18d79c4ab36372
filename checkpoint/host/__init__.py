"""The kernel and the host: each module is the one door to what its name says."""

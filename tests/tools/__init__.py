"""The tool with something wrong in it, for tests on the rig: programs that run on a node."""

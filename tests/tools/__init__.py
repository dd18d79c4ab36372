"""Programs that run the tool on a node of the rig, with something wrong in it."""

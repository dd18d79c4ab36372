"""The target's side: a zipapp of our own packages, sent over SSH and run from memory."""

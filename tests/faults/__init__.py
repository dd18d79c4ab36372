"""Faults that need many tries to show, because chance is in them: `scripts/faults --help`."""

"""Measurements of how long a client waits, with this tool and by hand (scripts/bench)."""

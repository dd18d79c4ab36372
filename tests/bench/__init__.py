"""How long a client waits with this tool, and with what people do by hand (scripts/bench)."""

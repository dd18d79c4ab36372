"""How long a client waits: this tool beside what people do by hand (scripts/bench)."""

"""The policy of a migration: what happens when, and which host may run the container."""

VERSION = "0.1.0"

"""Ask what holds a container on another host at its control socket (control.py), over SSH."""

from __future__ import annotations

from migrate.agent import control
from transport.connection import Connection

MAX_OUTPUT = 1 << 16
#: The limit to each silence of the other host. GO and ABORT take as long as the engine there does.
SILENCE_S = control.ANSWER_S + 10


def ask(connection: Connection, migration_id: str, word: str) -> control.Reply:
    """Send a word to what holds the container of a migration, and return the reply.

    The other host needs only python3. Raises ConnectionError if nobody holds the container there,
    and TransportError.
    """
    said = b""
    process = connection.run(control.ask_command(control.control_path(migration_id), word))
    try:
        process.patience(SILENCE_S)
        while (piece := process.read(MAX_OUTPUT)) and len(said) < MAX_OUTPUT:
            said += piece
        if not said:
            errors = process.read_errors(MAX_OUTPUT).decode(errors="replace").strip()
            raise ConnectionError(errors or "it says nothing")
    finally:
        process.close()
    return control.reply_in(said)

"""A reader of the files of ssh_config(5), for hosts without an ssh(1) to print its settings.

paramiko knows no Include, and not all of Match. Users who need those must install ssh(1).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import paramiko

from transport.destination import Destination

SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")


def lookup(destination: Destination, home: Path | None = None) -> dict[str, list[str]]:
    """Return a destination's settings, as {keyword in lower case: values} (endpoint.Settings).

    A port and a user in the destination come before those of the files. The user's own file comes
    before that of the system. The first to set a keyword wins; identity files add up.
    """
    # Port and user are a first section of each file, so that %p and %r in that file mean them.
    written = {"Port": destination.port, "User": destination.user}
    first = "Host *\n" + "".join(f"  {key} {value}\n" for key, value in written.items() if value)
    files = ((home or Path.home()) / ".ssh/config", SYSTEM_CONFIG)
    merged: dict[str, Any] = {}
    for text in [first, *(first + path.read_text() for path in files if path.exists())]:
        config = paramiko.SSHConfig()
        config.parse(io.StringIO(text))
        for key, value in config.lookup(destination.name).items():
            if key == "hostname" and value == destination.name:
                continue  # paramiko fills it in when the file has no HostName
            if key == "identityfile":
                merged.setdefault(key, []).extend(value)
            else:
                merged.setdefault(key, value)
    given = {key: value for key, value in merged.items() if value is not None}  # paramiko's "none"
    return {key: value if isinstance(value, list) else [str(value)] for key, value in given.items()}

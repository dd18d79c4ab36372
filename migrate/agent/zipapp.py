"""The agent as a zipapp, and the command line that receives and starts it on the target.

The target needs python3 and what comes with CRIU (pycriu). Nothing of this project is installed
or left on the target.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from migrate.agent import programs

#: The files that the agent imports, relative to the directory of this project's packages.
CONTENTS = (
    "migrate/__init__.py",
    "migrate/errors.py",
    "migrate/host_facts.py",
    "migrate/leftovers.py",
    "migrate/limits.py",
    "migrate/logs.py",
    "migrate/no_pauses.py",
    "migrate/agent/*.py",
    "migrate/decisions/*.py",
    "migrate/files/__init__.py",
    "migrate/files/tree_door.py",
    "migrate/journal/*.py",
    "migrate/memory/__init__.py",
    "migrate/memory/batches.py",
    "migrate/memory/encoding.py",
    "migrate/memory/receiver.py",
    "migrate/network/__init__.py",
    "migrate/network/late_frames.py",
    "migrate/network/target.py",
    "migrate/text.py",
    "migrate/wire/*.py",
    "checkpoint/**/*.py",
    "transport/__init__.py",
    "transport/errors.py",
    "transport/framing.py",
    "transport/kept.py",
    "transport/lasting_descriptors.py",
)
#: The size bound of a packed agent: about 18 times what it is now.
MOST_BYTES = 4 << 20


def command() -> str:
    """Return the command, for the target's login shell, that receives and starts the agent."""
    return programs.command("bootstrap", str(MOST_BYTES))


def pack() -> bytes:
    """Return the zipapp, preceded by its size (u32, big-endian), as bootstrap.py reads it."""
    root = Path(__file__).parent.parent.parent
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for pattern in CONTENTS:
            for path in sorted(root.glob(pattern)):
                archive.write(path, path.relative_to(root))
    packed = data.getvalue()
    return len(packed).to_bytes(4, "big") + packed

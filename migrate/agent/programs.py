"""The lone programs beside this module that are sent to the target as text, and run there.

They are bootstrap.py, which receives the agent, and plug.py, which attaches a channel to the agent.
"""

from __future__ import annotations

import functools
import shlex
from pathlib import Path


@functools.cache
def source(name: str) -> str:
    """Return the text of the program NAME.py."""
    return Path(__file__).with_name(f"{name}.py").read_text()


def command(name: str, *arguments: str) -> str:
    """Return the command, for the target's login shell, that becomes the program NAME.py there."""
    return shlex.join(["exec", "python3", "-Ic", source(name), *arguments])

"""The rig: real hosts made of namespaces on one machine (see __main__.py for the command, rig.py for the API)."""

from tests.rig.container import Container
from tests.rig.errors import BadUsage, CommandFailed, CommandTimedOut, RigError
from tests.rig.node import Node
from tests.rig.rig import Rig
from tests.rig.switch import Switch
from tests.rig.wait import until

__all__ = [
    "BadUsage",
    "CommandFailed",
    "CommandTimedOut",
    "Container",
    "Node",
    "Rig",
    "RigError",
    "Switch",
    "until",
]

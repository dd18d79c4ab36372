"""The rig: real hosts made of namespaces on one machine.

`scripts/rig` (__main__.py) makes rigs by hand. Tests use this package: rig.py and node.py are the
hosts, container.py and engine.py the containers on them, workload.py what runs in the containers,
hosts.py what a user does on two of the hosts.
"""

from tests.rig.container import Container
from tests.rig.engine import EngineContainer
from tests.rig.errors import BadUsage, CommandFailed, CommandTimedOut, RigError
from tests.rig.node import Node
from tests.rig.rig import Rig
from tests.rig.switch import Switch
from tests.rig.wait import until
from tests.rig.workload import Redis, Workload

__all__ = [
    "BadUsage",
    "CommandFailed",
    "CommandTimedOut",
    "Container",
    "EngineContainer",
    "Node",
    "Redis",
    "Rig",
    "RigError",
    "Switch",
    "Workload",
    "until",
]

"""Traces that a move leaves behind on a node: what is there afterwards and was not before."""

import shlex
from collections import Counter
from collections.abc import Mapping

from tests.rig.errors import RigError
from tests.rig.node import Node
from tests.rig.wait import until

#: What is there of one kind, one entry a line.
Traces = Mapping[str, list[str]]

#: The command that lists what there is of each kind.
LISTINGS = {
    "mounts": ["awk", '$5 != "/run/netns" {print $5}', "/proc/self/mountinfo"],
    "links": ["ip", "-o", "link", "show"],
    "netns": ["ip", "netns", "list"],
    "cgroups": ["find", "/sys/fs/cgroup", "-type", "d"],
    "processes": ["ps", "-eo", "args", "--no-headers"],
    "files": [
        *("find", "/run/migrate", "/run/runc", "-mindepth", "1"),
        *("-not", "-path", "/run/migrate/locks", "-not", "-path", "/run/migrate/journal"),
    ],
    "rules": ["nft", "--stateless", "list", "ruleset"],
}
#: One script makes all listings, for that is done around every test.
SECTION = "=== "
SCRIPT = "; ".join(
    f"echo '{SECTION}{kind}'; {shlex.join(argv)} 2>/dev/null" for kind, argv in LISTINGS.items()
)
#: How the lines of processes begin that make the listings, that serve an SSH connection which is
#: about to end, or that are kernel threads.
NO_TRACES = ("ps -eo", f"sh -c echo '{SECTION}", "sshd", "[")
SETTLED_S = 5.0


def traces(node: Node) -> Traces:
    """Return what there is on a node now, by kind."""
    found: dict[str, list[str]] = {}
    for line in node.run(["sh", "-c", SCRIPT], check=False).stdout.splitlines():
        if line.startswith(SECTION):
            found[line.removeprefix(SECTION)] = lines = []
        else:
            lines.append(line)
    found["links"] = [line.split(": ")[1] for line in found["links"]]
    found["processes"] = [line for line in found["processes"] if not line.startswith(NO_TRACES)]
    return found


def new_traces(node: Node, before: Traces) -> Traces:
    """Return, by kind, what is on a node now and was not before."""
    after = traces(node)
    new = {
        kind: sorted((Counter(after[kind]) - Counter(before[kind])).elements()) for kind in after
    }
    return {kind: found for kind, found in new.items() if found}


def settled(node: Node, before: Traces) -> Traces:
    """Return the new traces on a node once they are gone, or have stayed for SETTLED_S.

    The processes at the other end of a container's pipes take a moment to notice that it ended.
    """
    try:
        until(lambda: not new_traces(node, before), "traces to go", timeout_s=SETTLED_S)
    except RigError:
        return new_traces(node, before)
    return {}

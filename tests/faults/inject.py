"""The faults of the matrix, each done to a move that waits at its point."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from migrate.journal import book
from tests.faults import host_faults
from tests.faults.cases import DOCKERS, FRAMES, HOST_FAULTS, LINK, VICTIMS, Case
from tests.faults.injection import Injection, sh
from tests.rig.engine import DOCKERD
from tests.rig.hosts import Hosts
from tests.tools.at_state import SPOILS

#: The victims with which dockerd ends. It starts another containerd by itself.
DOCKERD_DIES = re.compile("engine of|dockerd of")
#: How long a process is stopped, by SIGSTOP.
STOPPED_S = 10.0
#: The names of processes, where a victim has another one.
PROGRAMS = {"shim": "containerd-shim"}
#: The commands that list the pids of victims on a node, which are known by what they run.
FINDERS = {
    "agent": host_faults.AGENT,
    "keeper": "sed -n 's/.*\"stand_by\":\\[\\([0-9]*\\),.*/\\1/p' {journal}/{id}.target",
    "CRIU of the dump": "pgrep -x criu",
    "CRIU of the restore": "pgrep -x criu",
    "engine's checkpoint": "pgrep -f '(runc|crun|podman).* checkpoint '",
    "engine's restore": "pgrep -f '(runc|crun|podman).* (restore|start) '",
    "engine of the source": "pgrep -x 'conmon|dockerd|containerd-shim|containerd'",
    "engine of the target": "pgrep -x 'conmon|dockerd|containerd-shim|containerd'",
    **{each: f"pgrep -x {PROGRAMS.get(each.split()[0], each.split()[0])}" for each in DOCKERS},
}
#: What drops the frames between the hosts alone: {way: (hook, the address at the other end)}.
DEAF = {"target": ("in", "saddr"), "source": ("out", "daddr")}
#: The interface of beta that leads to the switch.
UPLINK = "eth0"
#: What is said of an engine that has done what somebody has asked.
OBEYED = "the engine has obeyed"
#: A file that takes all the room on beta's disk.
FULL = "/var/lib/full"


def inject(case: Case, hosts: Hosts, move: Mapping[str, Any]) -> Injection:
    """Do to a move what its case wants. `move` is what the coordinator tells (at_state.wait)."""
    if case.fault.startswith("SIG"):
        return _signal(case, hosts, move)
    injection = Injection(what=case.fault, hit=True)
    if case.fault in FRAMES:
        sh(hosts.alpha, f"echo '{case.fault}' > {SPOILS}")
    elif case.what in HOST_FAULTS:
        host_faults.inject(case, hosts, injection)
    elif case.fault in LINK:
        make, end, seconds = _link(case.fault, hosts)
        sh(hosts.beta, make)
        injection.later(seconds, hosts.beta, end)
    elif case.fault == "target's disk full":
        room = "$(($(df --output=avail --block-size=1 / | tail -n 1) - 65536))"
        sh(hosts.beta, f"fallocate --length {room} {FULL}")
        injection.later(10.0, hosts.beta, f"rm {FULL}")
    elif case.what.endswith("by somebody"):
        injection.what = _by_somebody(case, hosts)
    elif case.what == "ended by itself":
        sh(hosts.alpha, "pkill -KILL -x redis-server")
    else:
        done = hosts.migrate(hosts.alpha, "redis", "beta")
        injection.what = f"a second move ended with {done.returncode}"
    return injection


def _link(fault: str, hosts: Hosts) -> tuple[str, str, float]:
    """Return the scripts that make and end a fault of the link on beta, and the seconds between."""
    if fault in ("1 Mbit/s", "200 ms"):
        how = "tbf rate 1mbit burst 32kbit latency 400ms" if "bit" in fault else "netem delay 200ms"
        return f"tc qdisc add dev {UPLINK} root {how}", f"tc qdisc del dev {UPLINK} root", 10.0
    other = hosts.alpha.address
    ways = DEAF if fault.startswith("cut") else [fault.split()[1]]
    chains = [
        f"add chain inet deaf {hook} {{ type filter hook {hook}put priority -400; }};"
        f" add rule inet deaf {hook} ip {end} {other} drop"
        for hook, end in (DEAF[way] for way in ways)
    ]
    make = f"nft '{'; '.join(['add table inet deaf', *chains])}'"
    return make, "nft delete table inet deaf", float(fault.split()[-2])


def _by_somebody(case: Case, hosts: Hosts) -> str:
    """Have the engine asked to end the container, and return what was done, for people."""
    word = next(each for each in ("kill", "restart", "stop") if case.fault.startswith(each))
    if case.engine == "runc":
        signal = "KILL" if word == "kill" else "TERM"
        sh(hosts.alpha, f"timeout 20 runc kill redis {signal}")
    else:
        asked = sh(hosts.alpha, f"timeout 5 {case.engine} {word} redis && echo {OBEYED}")
        return asked if asked.endswith(OBEYED) else case.fault
    return case.fault


def _signal(case: Case, hosts: Hosts, move: Mapping[str, Any]) -> Injection:
    number, _, victim = case.fault.removeprefix("SIG").partition(" of ")
    node = hosts.alpha if {**VICTIMS, **DOCKERS}[victim] == "alpha" else hosts.beta
    if victim in move:
        pids = [str(move[victim])]
    else:
        finder = FINDERS[victim].replace("{engine}", case.engine).replace("{id}", str(move["id"]))
        finder = finder.replace("{journal}", str(book.RAM))
        pids = sh(node, finder).split()
    injection = Injection()
    if pids:
        sh(node, f"kill -{number} {shlex.join(pids)}")
        injection.what, injection.hit = f"{victim}: {' '.join(pids)}", True
        if case.engine == "docker" and number != "STOP" and DOCKERD_DIES.match(victim):
            injection.later(2.0, node, DOCKERD)  # as systemd does
        if number == "STOP":
            injection.later(STOPPED_S, node, f"kill -CONT {shlex.join(pids)}")
    return injection

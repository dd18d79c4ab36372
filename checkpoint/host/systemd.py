"""The systemd units of processes, where systemd runs (systemd.service(5), systemctl(1))."""

from __future__ import annotations

from checkpoint.errors import CommandFailed
from checkpoint.host import proc
from checkpoint.host.run import find_program, run

SERVICE, SCOPE = ".service", ".scope"
SHELLS = {"sh", "bash", "dash", "busybox"}


def restarting_unit(pid: int) -> str | None:
    """Return the unit that systemd starts again when a process ends; None if there is none.

    systemd does that for a service whose main process ends, or the shell around it (Restart=).
    Raises OSError and ProcError.
    """
    unit = unit_of(pid)
    if unit is None or not unit.endswith(SERVICE) or find_program("systemctl") is None:
        return None
    try:
        told = run(["systemctl", "show", "--property=MainPID,Restart", "--", unit])
    except CommandFailed:
        return None  # a host that systemd has not started, or no unit of this systemd's
    found = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    if found.get("Restart", "no") == "no":
        return None
    main = found.get("MainPID")
    if main == str(pid):
        return unit
    parent = proc.parent(proc.read(pid, "stat"))
    return unit if main == str(parent) and proc.command_name(parent) in SHELLS else None


def unit_of(pid: int) -> str | None:
    """Return the service or scope that a process is in, by its cgroups; None if it is in none.

    Raises OSError and ProcError.
    """
    for _, path in proc.cgroups(pid):
        for name in reversed(path.split("/")):
            if name.endswith((SERVICE, SCOPE)):
                return name
    return None

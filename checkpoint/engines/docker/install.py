"""The installation of the OCI runtime `migrate` (oci_wrapper.py) in the docker of this host.

On SIGHUP docker reads the `runtimes` in its settings again (dockerd(8), live reload). Running
containers are not touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import signal
from pathlib import Path
from typing import Any

from checkpoint.engines.docker.incoming import RUNTIME
from checkpoint.host import paths, proc, whole

PROGRAM = paths.DOCKER_RUNTIME
SETTINGS = Path("/etc/docker/daemon.json")
PID_FILE, DAEMON = Path("/var/run/docker.pid"), "dockerd"


def install() -> list[str]:
    """Install the runtime, or renew it, and return what was changed, in lines for people.

    Returns [] if all of it was there. Raises OSError, and ValueError if docker's settings are not
    JSON.
    """
    told = []
    source = pkgutil.get_data(__package__, "oci_wrapper.py")
    assert source is not None
    settings = _settings()
    if not PROGRAM.exists() or PROGRAM.read_bytes() != source:
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        whole.replace(PROGRAM, source, 0o755)
        told.append(f"{PROGRAM}: written")
    wanted = {"path": str(PROGRAM)}
    if settings.get("runtimes", {}).get(RUNTIME) != wanted:
        settings.setdefault("runtimes", {})[RUNTIME] = wanted
        told += [_write(settings, f"runtimes.{RUNTIME} = {json.dumps(wanted)}"), *_reload()]
    return told


def remove() -> list[str]:
    """Remove the runtime, and return what was changed, in lines for people; [] if it was not there.

    Containers that migrated to this host can be started again only while the runtime is installed.
    Raises as `install` does.
    """
    told = []
    settings = _settings()
    if RUNTIME in settings.get("runtimes", {}):
        del settings["runtimes"][RUNTIME]
        if not settings["runtimes"]:
            del settings["runtimes"]
        told += [_write(settings, f"runtimes.{RUNTIME} removed"), *_reload()]
    if PROGRAM.exists():
        PROGRAM.unlink()
        told.append(f"{PROGRAM}: removed")
    return told


def _settings() -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        settings = json.loads(SETTINGS.read_text().strip() or "{}")
        if not isinstance(settings, dict):
            raise ValueError(f"{SETTINGS} holds no JSON object")  # noqa: TRY004  (as json.loads)
        return settings
    return {}


def _write(settings: dict[str, Any], what: str) -> str:
    SETTINGS.parent.mkdir(parents=True, exist_ok=True)
    mode = SETTINGS.stat().st_mode & 0o777 if SETTINGS.exists() else 0o644
    whole.replace(SETTINGS, (json.dumps(settings, indent=2) + "\n").encode(), mode)
    return f"{SETTINGS}: {what}"


def _reload() -> list[str]:
    try:
        pid = int(PID_FILE.read_text())
        if proc.command_name(pid) != DAEMON:
            raise ProcessLookupError(pid)
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError):
        return ["docker does not run; it will know when it does"]
    return [f"dockerd (process {pid}): told to read its settings again"]

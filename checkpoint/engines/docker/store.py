"""The networks, volumes and container images of docker, in the form of its API."""

from __future__ import annotations

import json
import signal
import tarfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from checkpoint.engines import archives, shape
from checkpoint.engines.docker import api
from checkpoint.engines.shape import Maybe, Shape
from checkpoint.errors import ImageError

#: Properties of a network that must be equal on both hosts, besides the addresses of IPAM.
SAME = ("Driver", "EnableIPv6", "Internal", "Options")
#: The members that are read of a network (API, NetworkInspect).
NETWORK: Shape = {"Name": str, "IPAM": {"Config": Maybe(list)}}
#: The members that are read of a container, whether it has ended or not.
ENDED: Shape = {
    "Config": {"StopSignal": Maybe(str)},
    "State": {"Status": str, "ExitCode": int, **dict.fromkeys(("StartedAt", "FinishedAt"), str)},
}
#: docker tells of a container's end that long after it, at most.
DIE_S = 0.5
#: The directory of an OCI image layout whose files are named by their digests.
BLOBS = "blobs/sha256"
#: Properties that a network is made with.
GIVEN = (*SAME, "EnableIPv4", "Attachable", "Labels", "IPAM")


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return the property by which a container cannot go from one network to the other, or None.

    `ours` is the network as the source has it, `theirs` as the target has it.
    """
    if ours["IPAM"].get("Config") != theirs["IPAM"].get("Config"):
        return "IPAM"
    return next((name for name in SAME if ours.get(name) != theirs.get(name)), None)


def network(name: str) -> dict[str, Any] | None:
    """Return the network of that name as docker describes it; None if there is none."""
    found = api.call("GET", f"/networks/{name}")
    return dict(found) if found else None


def create_network(wanted: Mapping[str, Any]) -> str:
    """Make a network like `wanted`, which another host's docker describes. Return the new id.

    Raises EngineRefused, also when there is a network of that name.
    """
    body = {"Name": wanted["Name"], **{name: wanted[name] for name in GIVEN if name in wanted}}
    return str(api.call("POST", "/networks/create", body)["Id"])


def remove_network(network_id: str) -> None:
    """Remove a network. Raises EngineRefused."""
    api.call("DELETE", f"/networks/{network_id}")


def pid_of(container_id: str) -> int | None:
    """Return the pid of a container's init, or 0 if it does not run; None if there is none.

    Raises EngineRefused.
    """
    found = api.call("GET", f"/containers/{container_id}/json")
    return int(found["State"]["Pid"]) if found else None


def remove_container(container_id: str) -> None:
    """Kill and remove a container, with its anonymous volumes.

    An id that docker does not know is no error. Raises EngineRefused.
    """
    api.await_containerd()
    api.call("DELETE", f"/containers/{container_id}", force="true", v="true")


def set_restart_policy(container_id: str, policy: str) -> None:
    """Give a container a restart policy, in the form that `docker update --restart` takes.

    Raises EngineRefused.
    """
    name, _, retries = policy.partition(":")
    given = {"Name": name, "MaximumRetryCount": int(retries or 0)}
    api.call("POST", f"/containers/{container_id}/update", {"RestartPolicy": given})


def own_end(container_id: str) -> int | None:
    """Return the exit code of a container that has ended, if nobody has asked docker to end it.

    None otherwise, and if docker does not know: its events are those since it was started (moby,
    daemon/events). Raises EngineRefused.
    """
    found = _ended(container_id)
    state = found["State"]
    if state["Status"] != "exited":
        return None
    started, ended = (
        datetime.fromisoformat(state[name]).timestamp() for name in ("StartedAt", "FinishedAt")
    )
    events = _events(container_id, ["die", "kill"], started, ended + DIE_S)
    stop = found["Config"].get("StopSignal") or ""
    actions = {e.get("Action") for e in events if e.get("Action") != "kill" or _ends(e, stop)}
    return int(state["ExitCode"]) if actions == {"die"} else None


def _ends(event: Mapping[str, Any], stop_signal: str) -> bool:
    """Return whether docker takes a signal that it was asked to send for a wish to end a container.

    It does so for each signal to a container without a stop signal of its own, and else for that
    and for SIGKILL (moby, daemon/kill.go).
    """
    sent = str(event.get("Actor", {}).get("Attributes", {}).get("signal", ""))
    name = stop_signal.upper().removeprefix("SIG")
    wanted = getattr(signal, f"SIG{name}", None) if not name.isdigit() else int(name)
    return wanted is None or sent in (str(int(wanted)), str(int(signal.SIGKILL)))


def starts_at_boot(container_id: str, policy: str) -> bool:
    """Return whether a container that does not run would have been started with the host.

    docker does that by the policy "always". It does not tell whether somebody had stopped the
    container before, which matters for "unless-stopped": such a container stays as it is. So does
    one that somebody has started or stopped since docker runs. Raises EngineRefused.
    """
    if policy != "always" or _ended(container_id)["State"]["Status"] != "exited":
        return False
    told = shape.check(api.call("GET", "/info"), {"SystemTime": str}, "docker's own description")
    now = datetime.fromisoformat(told["SystemTime"]).timestamp()
    return not _events(container_id, ["start", "kill", "stop"], 1, now)


def _ended(container_id: str) -> Any:
    """Return docker's description of a container, with the members of ENDED."""
    found = api.call("GET", f"/containers/{container_id}/json") or {}
    return shape.check(found, ENDED, f"docker's description of {container_id!r}")


def _events(container_id: str, actions: list[str], since_s: float, until_s: float) -> list[Any]:
    """Return the events of a container between two times, in seconds since 1970."""
    wanted = json.dumps({"container": [container_id], "event": actions})
    times = {"since": f"{since_s:.6f}", "until": f"{until_s:.6f}"}
    return api.series("/events", **times, filters=wanted)


def start_container(container_id: str) -> None:
    """Start a container, unless it runs. Raises EngineRefused."""
    api.call("POST", f"/containers/{container_id}/start")


def volume(name: str) -> dict[str, Any] | None:
    """Return the volume of that name as docker describes it; None if there is none."""
    found = api.call("GET", f"/volumes/{name}")
    return dict(found) if found else None


def create_volume(wanted: Mapping[str, Any]) -> Path:
    """Make an empty volume like `wanted`, which another host's docker describes.

    Returns the directory of its content. Raises EngineRefused.
    """
    body = {"Name": wanted["Name"], "Driver": wanted["Driver"]}
    body |= {"DriverOpts": wanted.get("Options") or {}, "Labels": wanted.get("Labels") or {}}
    return Path(api.call("POST", "/volumes/create", body)["Mountpoint"])


def remove_volume(name: str) -> None:
    """Remove a volume and its files. Raises EngineRefused."""
    api.call("DELETE", f"/volumes/{name}", force="true")


def users(name: str) -> set[str]:
    """Return the ids of the containers on this host, running or not, that have the volume."""
    wanted = f'{{"volume":["{name}"]}}'
    found = api.call("GET", "/containers/json", all="true", filters=wanted)
    return {str(each["Id"]) for each in found}


def image(name: str) -> dict[str, Any] | None:
    """Return the container image of that name or id; None if there is none."""
    found = api.call("GET", f"/images/{name}/json")
    return dict(found) if found else None


def layers_of_all_images() -> list[list[str]]:
    """Return the digests of the layers of each container image, lowest first."""
    ids = {each["Id"] for each in api.call("GET", "/images/json", all="true")}
    return [
        found["RootFS"]["Layers"] or []
        for each in sorted(ids)
        if (found := image(each)) is not None
    ]


def export_image(name: str, there: frozenset[str], directory: Path) -> None:
    """Write a container image to `directory`, as `docker save` does: an OCI image layout.

    Layers are not compressed, so that each is named by its DiffID. Those in `there` are left out.
    Raises EngineRefused or ImageError.
    """
    left_out = {f"{BLOBS}/{digest.removeprefix('sha256:')}" for digest in there}
    with api.download(f"/images/{name}/get") as answer:
        archives.unpack(answer, left_out, directory)


def load_image(directory: Path, image_id: str) -> None:
    """Load a container image in the form of `export_image`.

    docker verifies the layers; those that it has already may be missing. Raises EngineRefused, and
    ImageError if the loaded image is not `image_id`.
    """
    archive = directory.with_name(f"{directory.name}.tar")
    try:
        with tarfile.open(archive, "w") as tar:
            tar.add(directory, ".")
        api.upload("/images/load", archive)
    finally:
        archive.unlink(missing_ok=True)
    if image(image_id) is None:
        raise ImageError(f"what arrived is not the image {image_id}")


def runtime_program(name: str) -> Path | None:
    """Return the program of an OCI runtime that docker knows by that name; None if there is none.

    Raises EngineRefused.
    """
    found = api.call("GET", "/info")["Runtimes"].get(name)
    return Path(found["path"]) if found and found.get("path") else None

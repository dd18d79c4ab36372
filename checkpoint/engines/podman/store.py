"""The containers, networks, volumes and container images of podman, by its commands.

Every function that asks podman raises EngineRefused when podman fails or cannot be asked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from checkpoint import schema
from checkpoint.bounded import Digest
from checkpoint.engines import shape
from checkpoint.engines.shape import Each, Maybe, Shape
from checkpoint.errors import CommandFailed, EngineRefused, ImageError
from checkpoint.host.run import run

#: Properties of a network that must be equal on both hosts. The name of the bridge must be equal,
#: too, unless podman makes the bridge itself.
SAME = ("driver", "subnets", "ipv6_enabled", "internal", "options", "routes")
#: The option `mode` of a network whose bridge podman does not make.
UNMANAGED = "unmanaged"
#: The members that are read of a network (`podman network inspect`).
NETWORK: Shape = {
    "name": str,
    "driver": str,
    "network_interface": Maybe(str),
    "network_dns_servers": Maybe([str]),
    "subnets": Maybe(
        [
            {
                "subnet": str,
                "gateway": Maybe(str),
                "lease_range": Maybe({"start_ip": Maybe(str), "end_ip": Maybe(str)}),
            }
        ]
    ),
    "routes": Maybe([{"destination": str, "gateway": str, "metric": Maybe(int)}]),
    "options": Maybe(Each(str)),
    "labels": Maybe(Each(str)),
}
#: The members that are read of `podman info`.
STORAGE: Shape = {"store": {"graphRoot": str, "graphDriverName": str}}
#: The members that are read of a container, whether it has ended or not.
ENDED: Shape = {"State": {"Status": str, "ExitCode": int, "StoppedByUser": Maybe(bool)}}
#: Statuses of `podman KIND exists`: podman's own for a thing that does not exist, and that of
#: checkpoint/host/run.py when podman cannot be started.
NOT_THERE, NO_PODMAN = 1, 127
#: Bounds that only end the wait for a podman that hangs.
REMOVE_TIMEOUT_S, IMAGE_TIMEOUT_S = 120.0, 3600.0


def has_container(name: str) -> bool:
    """Return whether podman has a container of that name or id, in any state.

    A host without podman has no container of podman's.
    """
    return _exists("container", name, NOT_THERE, NO_PODMAN)


def pid_of(container_id: str) -> int | None:
    """Return the pid that a container's init has or had, or 0; None if there is no container.

    podman does not see that a container has ended whose conmon was killed before. Raises
    EngineRefused.
    """
    found = _inspect("container", container_id)
    return int(found["State"]["Pid"]) if found else None


def remove_container(container_id: str) -> None:
    """Kill and remove a container, with the anonymous volumes that podman made for it.

    `container_id` is the full id. An id that podman does not know is no error.
    """
    words = ["rm", "--force", "--ignore", "--volumes", "--time=0", container_id]
    _podman(*words, timeout_s=REMOVE_TIMEOUT_S)


def set_restart_policy(container_id: str, policy: str) -> None:
    """Give a container a restart policy, in the form that podman-update(1) takes (--restart)."""
    _podman("update", f"--restart={policy}", container_id, timeout_s=REMOVE_TIMEOUT_S)


def own_end(container_id: str) -> int | None:
    """Return the exit code of a container that has ended, if nobody has asked podman to end it.

    None otherwise.
    """
    found = _inspect("container", container_id)
    state = shape.check(found or {}, ENDED, f"podman's description of {container_id!r}")["State"]
    by_itself = state["Status"] in ("exited", "stopped") and not state.get("StoppedByUser")
    return int(state["ExitCode"]) if by_itself else None


def starts_at_boot(container_id: str, policy: str) -> bool:
    """Return whether a container that does not run would have been started with the host.

    By a policy podman-restart.service starts those that nobody has stopped.
    """
    return policy in ("always", "unless-stopped") and own_end(container_id) is not None


def start_container(container_id: str) -> None:
    """Start a container, unless it runs."""
    _podman("start", container_id, timeout_s=REMOVE_TIMEOUT_S)


def log_of(container_id: str) -> Path:
    """Return the path of the log that podman keeps for a container that names no path of its own.

    The log need not be there. It is in the container's directory of the storage, as
    ContainerDirectory of containers/storage, store.go, has it. podman gives this path to every
    container that it imports.
    """
    told = _podman("info", "--format=json")
    found = shape.parse(told, STORAGE, "podman's description of itself")["store"]
    directory = Path(found["graphRoot"], f"{found['graphDriverName']}-containers", container_id)
    return directory / "userdata" / "ctr.log"


def network(name: str) -> dict[str, Any] | None:
    """Return the network of that name as podman describes it; None if there is none."""
    return _inspect("network", name)


def volume(name: str) -> dict[str, Any] | None:
    """Return the volume of that name; None if there is none."""
    return _inspect("volume", name)


def users(name: str) -> set[str]:
    """Return the ids of the containers on this host, running or not, that have the volume."""
    listed = _podman("ps", "--all", "--quiet", "--no-trunc", "--filter", f"volume={name}")
    return set(listed.split())


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return the property by which a container cannot go from one network to the other, or None.

    `ours` is the network as the source has it, `theirs` as the target has it.
    """
    names = (
        [*SAME, "network_interface"]
        if (ours.get("options") or {}).get("mode") == UNMANAGED
        else SAME
    )
    return next(
        (name for name in names if (ours.get(name) or None) != (theirs.get(name) or None)), None
    )


def create_network(wanted: Mapping[str, Any]) -> str:
    """Make a network like `wanted`, which another host's podman describes. Return the new id.

    Raises EngineRefused, also when there is a network of that name.
    """
    argv = ["network", "create", "--driver", wanted["driver"]]
    for subnet in wanted.get("subnets") or []:
        argv += ["--subnet", subnet["subnet"]]
        argv += ["--gateway", subnet["gateway"]] if subnet.get("gateway") else []
        if lease := subnet.get("lease_range"):
            argv += ["--ip-range", f"{lease.get('start_ip') or ''}-{lease.get('end_ip') or ''}"]
    for route in wanted.get("routes") or []:
        metric = [str(route["metric"])] if route.get("metric") is not None else []
        argv += ["--route", ",".join([route["destination"], route["gateway"], *metric])]
    for name, value in (wanted.get("options") or {}).items():
        argv += ["--opt", f"{name}={value}"]
    for name, value in (wanted.get("labels") or {}).items():
        argv += ["--label", f"{name}={value}"]
    if interface := wanted.get("network_interface"):
        argv += ["--interface-name", interface]
    for server in wanted.get("network_dns_servers") or []:
        argv += ["--dns", server]
    flags = {"--ipv6": wanted.get("ipv6_enabled"), "--internal": wanted.get("internal")}
    flags["--disable-dns"] = not wanted.get("dns_enabled")
    _podman(*argv, *(flag for flag, given in flags.items() if given), wanted["name"])
    return str(_described("network", wanted["name"])["id"])


def remove_network(network_id: str) -> None:
    """Remove a network. Raises EngineRefused."""
    _podman("network", "rm", network_id)


def create_volume(wanted: Mapping[str, Any]) -> Path:
    """Make an empty volume like `wanted`, which another host's podman describes.

    Returns the directory of its content.
    """
    argv = ["volume", "create", "--driver", wanted["Driver"]]
    for name, value in (wanted.get("Options") or {}).items():
        argv += ["--opt", f"{name}={value}"]
    for name, value in (wanted.get("Labels") or {}).items():
        argv += ["--label", f"{name}={value}"]
    _podman(*argv, wanted["Name"])
    return Path(_described("volume", wanted["Name"])["Mountpoint"])


def remove_volume(name: str) -> None:
    """Remove a volume and its files. Raises EngineRefused."""
    _podman("volume", "rm", "--force", name)


def image(name: str) -> dict[str, Any] | None:
    """Return the container image of that name or id; None if there is none."""
    return _inspect("image", name)


def layers_of_all_images() -> list[list[str]]:
    """Return the digests of the layers of each container image, lowest first."""
    ids = set(_podman("images", "--all", "--quiet", "--no-trunc").split())
    told = _podman("image", "inspect", *sorted(ids)) if ids else "[]"
    found = shape.parse(
        told, [{"RootFS": {"Layers": Maybe([str])}}], "podman's description of its images"
    )
    return [each["RootFS"].get("Layers") or [] for each in found]


def export_image(image_id: str, there: frozenset[str], directory: Path) -> None:
    """Write a container image to `directory`, in the `dir:` form of containers-transports(5).

    Layers are not compressed, so that each is named by its DiffID. Those in `there` are left out.
    Raises EngineRefused, or DataInvalid when one of `there` is no digest.
    """
    words = ["push", "--quiet", "--remove-signatures", "--compress=false", image_id]
    _podman(*words, f"dir:{directory}", timeout_s=IMAGE_TIMEOUT_S)
    leave_out(directory, there)


def leave_out(directory: Path, layers: Iterable[str]) -> None:
    """Remove layers from a container image in the form of `export_image`; ignore missing ones.

    Raises DataInvalid when one of `layers` is no digest.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for digest in layers:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(schema.read(Digest, digest).removeprefix("sha256:"), dir_fd=fd)
    finally:
        os.close(fd)


def load_image(directory: Path, image_id: str, name: str) -> None:
    """Load a container image in the form of `export_image`, and tag it with `name`.

    podman verifies every digest. A `name` that only abbreviates the id is no tag. Raises
    EngineRefused, and ImageError if the loaded image has another id than `image_id`.
    """
    loaded = _podman("pull", "--quiet", f"dir:{directory}", timeout_s=IMAGE_TIMEOUT_S).strip()
    if loaded != image_id:
        raise ImageError(f"the image that arrived is {loaded}, not {image_id}")
    if not image_id.startswith(name):
        _podman("tag", image_id, name)


def _inspect(kind: str, name: str) -> dict[str, Any] | None:
    return _described(kind, name) if _exists(kind, name, NOT_THERE) else None


def _described(kind: str, name: str) -> dict[str, Any]:
    what = f"podman's description of {kind} {name!r}"
    return dict(shape.parse(_podman(kind, "inspect", name), [dict], what)[0])


def _exists(kind: str, name: str, *no: int) -> bool:
    """Return whether podman has a thing of that name; the statuses `no` of its answer say no."""
    try:
        run(["podman", kind, "exists", name])
    except CommandFailed as error:
        if error.status in no:
            return False
        raise EngineRefused(f"podman cannot be asked: {error}") from error
    return True


def _podman(*words: str, timeout_s: float = 60.0) -> str:
    """Run a command of podman's to its end, and return its standard output."""
    try:
        return run(["podman", *words], timeout_s=timeout_s)
    except CommandFailed as error:
        raise EngineRefused(str(error)) from error

"""docker's networks and volumes, in the form that its API gives and takes them."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoint.errors import ImageError
from checkpoint.runtimes import archives, docker_api
from checkpoint.runtimes.shape import Maybe, Shape

#: What must be the same of a network on both hosts, and what is given when it is made.
SAME = ("Driver", "EnableIPv6", "Internal", "Options")
#: What is needed of a network (API, NetworkInspect).
NETWORK: Shape = {"Name": str, "IPAM": {"Config": Maybe(list)}}
#: Where an OCI image layout has what is named by its digest.
BLOBS = "blobs/sha256"
GIVEN = (*SAME, "EnableIPv4", "Attachable", "Labels", "IPAM")


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """In what two networks differ so that a container of one is none of the other."""
    if ours["IPAM"].get("Config") != theirs["IPAM"].get("Config"):
        return "IPAM"
    return next((name for name in SAME if ours.get(name) != theirs.get(name)), None)


def network(name: str) -> dict[str, Any] | None:
    """None where there is none of that name."""
    found = docker_api.call("GET", f"/networks/{name}")
    return dict(found) if found else None


def create_network(wanted: Mapping[str, Any]) -> str:
    """Make a network like one of another host; its id. Raises EngineRefused, also when there is one of that name."""
    body = {"Name": wanted["Name"], **{name: wanted[name] for name in GIVEN if name in wanted}}
    return str(docker_api.call("POST", "/networks/create", body)["Id"])


def remove_network(network_id: str) -> None:
    docker_api.call("DELETE", f"/networks/{network_id}")


def remove_container(container_id: str) -> None:
    """Kill and forget a container, with its anonymous volumes. An id that docker does not know is no error."""
    docker_api.call("DELETE", f"/containers/{container_id}", force="true", v="true")


def volume(name: str) -> dict[str, Any] | None:
    """None where there is none of that name."""
    found = docker_api.call("GET", f"/volumes/{name}")
    return dict(found) if found else None


def create_volume(wanted: Mapping[str, Any]) -> Path:
    """Like one of another host, empty. Where its content goes. Raises EngineRefused."""
    body = {"Name": wanted["Name"], "Driver": wanted["Driver"]}
    body |= {"DriverOpts": wanted.get("Options") or {}, "Labels": wanted.get("Labels") or {}}
    return Path(docker_api.call("POST", "/volumes/create", body)["Mountpoint"])


def remove_volume(name: str) -> None:
    docker_api.call("DELETE", f"/volumes/{name}", force="true")


def is_used(name: str) -> bool:
    """Whether any container here, running or not, has the volume."""
    return bool(
        docker_api.call("GET", "/containers/json", all="true", filters=f'{{"volume":["{name}"]}}')
    )


def image(name: str) -> dict[str, Any] | None:
    """By name or id; None where there is none."""
    found = docker_api.call("GET", f"/images/{name}/json")
    return dict(found) if found else None


def layers_of_all_images() -> list[list[str]]:
    ids = {each["Id"] for each in docker_api.call("GET", "/images/json", all="true")}
    return [
        found["RootFS"]["Layers"] or []
        for each in sorted(ids)
        if (found := image(each)) is not None
    ]


def export_image(name: str, there: frozenset[str], directory: Path) -> None:
    """What `docker save` gives, unpacked: an OCI image layout with layers named by their DiffID.

    Raises EngineRefused or ImageError.
    """
    left_out = {f"{BLOBS}/{digest.removeprefix('sha256:')}" for digest in there}
    with docker_api.download(f"/images/{name}/get") as answer:
        archives.unpack(answer, left_out, directory)


def load_image(directory: Path, image_id: str) -> None:
    """docker verifies the layers, and takes those for granted that it has. Raises EngineRefused or ImageError."""
    archive = directory.with_name(f"{directory.name}.tar")
    try:
        with tarfile.open(archive, "w") as tar:
            tar.add(directory, ".")
        docker_api.upload("/images/load", archive)
    finally:
        archive.unlink(missing_ok=True)
    if image(image_id) is None:
        raise ImageError(f"what arrived is not the image {image_id}")


def runtime_program(name: str) -> Path | None:
    """The program of an OCI runtime that it knows by that name."""
    found = docker_api.call("GET", "/info")["Runtimes"].get(name)
    return Path(found["path"]) if found and found.get("path") else None

"""podman's containers, networks, volumes and images: its `inspect`, `create` and `rm` commands."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from checkpoint import schema
from checkpoint.bounded import Digest
from checkpoint.errors import CommandFailed, EngineRefused, ImageError
from checkpoint.host.run import run
from checkpoint.runtimes import shape
from checkpoint.runtimes.shape import Each, Maybe, Shape

#: What must be the same of a network on both hosts. The name of a bridge that podman makes itself need not be.
SAME = ("driver", "subnets", "ipv6_enabled", "internal", "options", "routes")
UNMANAGED = "unmanaged"
#: What is needed of a network (`podman network inspect`).
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
#: Statuses of `podman container exists`: podman's own, and of checkpoint/host/run.py where it cannot be started.
NO_SUCH_CONTAINER, NO_PODMAN = 1, 127
#: A bound against waiting for ever, not a limit.
REMOVE_TIMEOUT_S, IMAGE_TIMEOUT_S = 120.0, 3600.0


def has_container(name: str) -> bool:
    """Whether podman has a container of that name or id, in whatever state. Raises EngineRefused."""
    try:
        run(["podman", "container", "exists", name])
    except CommandFailed as error:
        if error.status in (NO_SUCH_CONTAINER, NO_PODMAN):
            return False
        raise EngineRefused(f"podman cannot be asked: {error}") from error
    return True


def remove_container(container_id: str) -> None:
    """Kill and forget a container, with the anonymous volumes that podman made for it. `container_id` is the full id;
    one that podman does not know is no error. Raises CommandFailed."""
    argv = ["podman", "rm", "--force", "--ignore", "--volumes", "--time=0", container_id]
    run(argv, timeout_s=REMOVE_TIMEOUT_S)


def network(name: str) -> dict[str, Any] | None:
    """None where there is none of that name."""
    return _inspect("network", name)


def volume(name: str) -> dict[str, Any] | None:
    return _inspect("volume", name)


def is_used(name: str) -> bool:
    """Whether any container here, running or not, has the volume."""
    return bool(run(["podman", "ps", "--all", "--quiet", "--filter", f"volume={name}"]).strip())


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """In what two networks differ so that a container of one is none of the other."""
    names = (
        [*SAME, "network_interface"]
        if (ours.get("options") or {}).get("mode") == UNMANAGED
        else SAME
    )
    return next(
        (name for name in names if (ours.get(name) or None) != (theirs.get(name) or None)), None
    )


def create_network(wanted: Mapping[str, Any]) -> str:
    """Make a network like one of another host; its id. Raises CommandFailed, also when there is one of that name."""
    argv = ["podman", "network", "create", "--driver", wanted["driver"]]
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
    run([*argv, *(flag for flag, given in flags.items() if given), wanted["name"]])
    made = network(wanted["name"])
    assert made is not None
    return str(made["id"])


def remove_network(network_id: str) -> None:
    run(["podman", "network", "rm", network_id])


def create_volume(wanted: Mapping[str, Any]) -> Path:
    """Like one of another host, empty. Where its content goes. Raises CommandFailed."""
    argv = ["podman", "volume", "create", "--driver", wanted["Driver"]]
    for name, value in (wanted.get("Options") or {}).items():
        argv += ["--opt", f"{name}={value}"]
    for name, value in (wanted.get("Labels") or {}).items():
        argv += ["--label", f"{name}={value}"]
    run([*argv, wanted["Name"]])
    made = volume(wanted["Name"])
    assert made is not None
    return Path(made["Mountpoint"])


def remove_volume(name: str) -> None:
    run(["podman", "volume", "rm", "--force", name])


def image(name: str) -> dict[str, Any] | None:
    """By name or id; None where there is none."""
    return _inspect("image", name)


def layers_of_all_images() -> list[list[str]]:
    ids = set(run(["podman", "images", "--all", "--quiet", "--no-trunc"]).split())
    told = run(["podman", "image", "inspect", *sorted(ids)]) if ids else "[]"
    found = shape.parse(
        told, [{"RootFS": {"Layers": Maybe([str])}}], "podman's description of its images"
    )
    return [each["RootFS"].get("Layers") or [] for each in found]


def export_image(image_id: str, there: frozenset[str], directory: Path) -> None:
    """In the form of containers-transports(5), `dir:`; layers as they are when unpacked, named by their DiffID."""
    argv = [
        "podman",
        "push",
        "--quiet",
        "--remove-signatures",
        "--compress=false",
        image_id,
        f"dir:{directory}",
    ]
    run(argv, timeout_s=IMAGE_TIMEOUT_S)
    leave_out(directory, there)


def leave_out(directory: Path, layers: Iterable[str]) -> None:
    """Remove layers from an image in that form. Raises DataInvalid for what is not a layer's digest."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for digest in layers:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(schema.read(Digest, digest).removeprefix("sha256:"), dir_fd=fd)
    finally:
        os.close(fd)


def load_image(directory: Path, image_id: str, name: str) -> None:
    """podman verifies every digest. Raises CommandFailed, and ImageError if it is another image."""
    loaded = run(
        ["podman", "pull", "--quiet", f"dir:{directory}"], timeout_s=IMAGE_TIMEOUT_S
    ).strip()
    if loaded != image_id:
        raise ImageError(f"the image that arrived is {loaded}, not {image_id}")
    if not image_id.startswith(name):
        run(["podman", "tag", image_id, name])


def _inspect(kind: str, name: str) -> dict[str, Any] | None:
    try:
        run(["podman", kind, "exists", name])
    except CommandFailed:
        return None
    what = f"podman's description of {kind} {name!r}"
    return dict(shape.parse(run(["podman", kind, "inspect", name]), [dict], what)[0])

"""OCI bundles whose containers run the programs of the node that they are on.

config.json is as in the OCI runtime specification 1.0.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.rig.errors import BadUsage
from tests.rig.node_init import CHECKOUT_IN_NODE

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
ENVIRONMENT = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "PYTHONDONTWRITEBYTECODE=1",
]
#: The capabilities that docker gives by default.
CAPABILITIES = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
]
MASKED_PATHS = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"]
READ_ONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]

EMPTY_DIRECTORIES = [
    "data",
    "dev",
    "etc",
    "opt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "usr",
    "var/log",
    "var/tmp",
]
USR_MERGE = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
#: What programs look up in the node's /etc. /usr/bin has links that lead through alternatives.
FROM_ETC = [
    "passwd",
    "group",
    "nsswitch.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
]


def parse_size(text: str) -> int:
    """Return a size in bytes, from a number that may have K, M or G after it.

    Raises BadUsage for any other text.
    """
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or unit not in UNITS:
        raise BadUsage(f"{text!r} is no size: write bytes, or a number with K, M or G")
    return int(number) * UNITS[unit]


def write_bundle(
    directory: Path,
    *,
    tree: Path,
    name: str,
    address: str,
    argv: Sequence[str],
    memory_bytes: int | None,
    unified_cgroups: bool,
) -> None:
    """Write config.json and rootfs into a directory, for a node whose Debian tree is `tree`."""
    rootfs = directory / "rootfs"
    for empty in EMPTY_DIRECTORIES:
        (rootfs / empty).mkdir(parents=True)
    (rootfs / "tmp").mkdir()
    (rootfs / "tmp").chmod(0o1777)
    for link, leads_to in USR_MERGE.items():
        (rootfs / link).symlink_to(leads_to)
    for entry in FROM_ETC:
        source, target = tree / "etc" / entry, rootfs / "etc" / entry
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        elif source.exists():
            shutil.copy2(source, target)
    (rootfs / "etc/hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
    (rootfs / "etc/hostname").write_text(f"{name}\n")
    (directory / "config.json").write_text(
        json.dumps(spec(name, argv, memory_bytes, unified_cgroups=unified_cgroups), indent=2) + "\n"
    )


def spec(
    name: str, argv: Sequence[str], memory_bytes: int | None, *, unified_cgroups: bool
) -> Mapping[str, Any]:
    """Return what config.json says: the container has its address from the netns of its name."""
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if memory_bytes is not None:
        resources["memory"] = {"limit": memory_bytes}
    return {
        "ociVersion": "1.0.2",
        "hostname": name,
        "root": {"path": "rootfs", "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(argv),
            "env": ENVIRONMENT,
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
            "noNewPrivileges": False,
        },
        "mounts": _mounts(),
        "linux": {
            "cgroupsPath": f"/{name}",
            "namespaces": _namespaces(name, unified_cgroups=unified_cgroups),
            "resources": resources,
            "maskedPaths": MASKED_PATHS,
            "readonlyPaths": READ_ONLY_PATHS,
        },
    }


def _namespaces(name: str, *, unified_cgroups: bool) -> Sequence[Mapping[str, str]]:
    kinds = ["pid", "ipc", "uts", "mount"]
    # As with docker, cgroup namespaces are private where cgroups are v2: the root group lists its
    # controllers there.
    if unified_cgroups:
        kinds.append("cgroup")
    return [*({"type": kind} for kind in kinds), {"type": "network", "path": f"/run/netns/{name}"}]


def _mounts() -> Sequence[Mapping[str, Any]]:
    secure = ["nosuid", "noexec", "nodev"]
    return [
        _mount("/proc", "proc", secure),
        _mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount(
            "/dev/pts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        _mount("/dev/shm", "tmpfs", [*secure, "mode=1777", "size=65536k"]),  # noqa: S108
        _mount("/dev/mqueue", "mqueue", secure),
        _mount("/sys", "sysfs", [*secure, "ro"]),
        _mount("/sys/fs/cgroup", "cgroup", [*secure, "relatime", "ro"]),
        # Each bind is named by itself: CRIU is not told of what a recursive one brings along.
        *(
            {"destination": path, "type": "bind", "source": path, "options": ["bind", "ro"]}
            for path in ("/usr", "/opt", os.fspath(CHECKOUT_IN_NODE))
        ),
    ]


def _mount(destination: str, kind: str, options: Sequence[str]) -> Mapping[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}

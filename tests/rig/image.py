"""Container images made of the nodes' own programs, as archives for `podman load`, `docker load`.

The format is the docker-archive of containers/image: manifest.json, a config as in the OCI image
specification, and a tar archive for each layer.
"""

import functools
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.rig.bundle import ENVIRONMENT, USR_MERGE

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
EMPTY = (
    "data",
    "dev",
    "etc",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "usr",
    "var/lib",
    "var/log",
    "var/tmp",
)
SHELL = [
    "bash",
    "cat",
    "chmod",
    "cp",
    "date",
    "echo",
    "env",
    "hostname",
    "ip",
    "ln",
    "ls",
    "mkdir",
    "mknod",
    "mv",
]
SHELL += ["rm", "sh", "sleep", "stat", "touch", "true", "xargs"]
#: Python, with what it looks up beside the libraries that it is linked with.
PYTHON = ("/usr/bin/python3", "/usr/bin/python3.14", "/usr/lib/python3.14")
SEARCHED = ("/usr/sbin", "/usr/bin")
LINKED = re.compile(r"(/\S+) \(0x")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The content of a layer of an image.

    `programs` are names or paths, and come with the libraries that they need. `paths` are of the
    tree, and `files` are given by their content.
    """

    programs: Sequence[str] = ()
    paths: Sequence[str] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    directories: Sequence[str] = ()


BASE = Layer(
    programs=SHELL,
    paths=[*PYTHON, "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/usr/lib/locale/C.utf8"],
    directories=EMPTY,
)


def write_archive(
    archive: Path, tree: Path, name: str, layers: Sequence[Layer], command: Sequence[str]
) -> str:
    """Write the archive of an image of that name, and return the image's id.

    The same input makes the same image.
    """
    blobs = [_layer(tree, layer, first=index == 0) for index, layer in enumerate(layers)]
    config = {
        "architecture": ARCHITECTURES[os.uname().machine],
        "os": "linux",
        "config": {"Cmd": list(command), "Env": ENVIRONMENT[:1]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(blob)}" for blob in blobs]},
        "history": [{"created_by": f"layer {index}"} for index in range(len(blobs))],
    }
    text = json.dumps(config).encode()
    manifest = [
        {
            "Config": f"{_digest(text)}.json",
            "RepoTags": [name],
            "Layers": [f"{_digest(blob)}/layer.tar" for blob in blobs],
        }
    ]
    with tarfile.open(archive, "w") as tar:
        for blob in {_digest(blob): blob for blob in blobs}.values():
            _add(tar, f"{_digest(blob)}/layer.tar", blob)
        _add(tar, f"{_digest(text)}.json", text)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return _digest(text)


def _layer(tree: Path, layer: Layer, *, first: bool) -> bytes:
    """Return the tar archive of a layer; the first one has what every root directory has."""
    data = io.BytesIO()
    paths = {path for program in layer.programs for path in _closure(tree, program)} | {
        *layer.paths
    }
    with tarfile.open(fileobj=data, mode="w") as tar:
        if first:
            for link, leads_to in USR_MERGE.items():
                _add_link(tar, link, leads_to)
            _add_directory(tar, "tmp", 0o1777)
        for directory in layer.directories:
            _add_directory(tar, directory, 0o755)
        whole = tuple(f"{path}/" for path in layer.paths)
        for path in sorted(path for path in paths if not path.startswith(whole)):
            tar.add(tree / path.lstrip("/"), path.lstrip("/"), filter=_timeless)
        for path, content in layer.files.items():
            _add(tar, path.lstrip("/"), content)
    return data.getvalue()


@functools.cache
def _closure(tree: Path, program: str) -> frozenset[str]:
    """Return the paths of a program, of all that its links lead to, and of its libraries."""
    path = next(
        p for at in SEARCHED if os.path.lexists(tree / (p := os.path.join(at, program)).lstrip("/"))
    )
    argv = ["chroot", str(tree), "/usr/bin/ldd", path]
    linked = LINKED.findall(
        subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    )
    return frozenset(step for file in (path, *linked) for step in _links(tree, file))


def _links(tree: Path, path: str) -> Iterable[str]:
    """Yield the path and, as long as it is a link, where it leads to.

    A path under /lib and the like is told as the path under /usr that it is.
    """
    for merged, real in USR_MERGE.items():
        if path.startswith(f"/{merged}/"):
            path = f"/{real}{path.removeprefix(f'/{merged}')}"
    yield path
    inside = tree / path.lstrip("/")
    if inside.is_symlink():
        target = os.path.normpath(Path(path).parent / os.readlink(inside))
        yield from _links(tree, target)


def _timeless(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Return an entry without its time of change; None for what an image need not have."""
    entry.mtime = 0
    return None if "__pycache__" in entry.name or "/test/" in entry.name else entry


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def _add_directory(tar: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def _add_link(tar: tarfile.TarFile, name: str, leads_to: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, leads_to
    tar.addfile(entry)


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()

"""Parsers of what engines and runtimes say and write, and of what people type."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from checkpoint.engines import archives, belongings, shape
from checkpoint.engines.base import Container, read_config
from checkpoint.engines.docker import engine as docker
from checkpoint.engines.docker import store as docker_store
from checkpoint.engines.docker.incoming import IncomingDockerContainer, endpoint_of, entries
from checkpoint.engines.docker.oci_wrapper import command_of, option
from checkpoint.engines.oci.bundle import IncomingBundle
from checkpoint.engines.oci.crun import Crun
from checkpoint.engines.oci.runc import Runc
from checkpoint.engines.oci.runtime import TOLD
from checkpoint.engines.podman import engine as podman
from checkpoint.engines.podman import store as podman_store
from checkpoint.engines.podman.engine import without_contents
from checkpoint.engines.podman.incoming import IncomingPodmanContainer, with_output
from checkpoint.errors import DataInvalid, ImageError
from checkpoint.undo import Undo
from migrate.agent import control
from migrate.agent.client import AgentClient
from migrate.cli.move import MOST_COUNT, count, rate
from migrate.files.engine_log import MOST_LINE_BYTES, PIECE_BYTES, OutputSync
from migrate.network import late_frames
from migrate.network.late_frames import Frame
from migrate.wire.protocol import Message
from tests.fuzz.host import file_of
from tests.fuzz.parser import Parser
from transport.destination import Destination

RAM = Path("/dev/shm")  # noqa: S108


def _container(config: dict[str, Any], directory: Path = Path("/")) -> Container:
    return Container(
        id="x",
        name="x",
        pid=1,
        bundle=directory,
        rootfs=directory,
        config=config,
        resources={"cpu": {"shares": 1}, "unified": {"cpu.max": "max"}},
        descriptors=(),
        trees=(),
        network_namespace=None,
    )


def bundle(data: bytes) -> None:
    """Read config.json, and ask it all that the product asks."""
    directory = Path(tempfile.mkdtemp(prefix="migrate-fuzz-", dir=RAM))
    try:
        (directory / "config.json").write_bytes(data)
        config = read_config(directory)
        container = _container(config, directory)
        for source, writable in container.host_paths:
            assert isinstance(source, str)
            assert isinstance(writable, bool)
        assert Runc().describe(container)["config"]["root"]["path"] == config["root"]["path"]
    finally:
        shutil.rmtree(directory)


def runtime_state(data: bytes) -> None:
    """Read what runc and crun print and write, by the reader of either."""
    told = shape.parse(data, TOLD, "state")
    assert isinstance(told["pid"], int)


def runc_state(data: bytes) -> None:
    internal = shape.parse(data, Runc.internal, "state.json")
    Runc()._limits(1, internal)
    assert all(isinstance(each, str) for each in Runc()._descriptors(internal))


def crun_status(data: bytes) -> None:
    internal = shape.parse(data, Crun.internal, "status")
    assert all(isinstance(each, str) for each in Crun()._descriptors(internal))


def podman_inspect(data: bytes) -> None:
    found = shape.parse(data, podman.RUNNING, "podman's description")
    if podman.unmovable(found) is None:
        if found["GraphDriver"]["Name"] == podman.OVERLAY:
            shape.check(found, podman.OVERLAY_FILES, "podman's description")
        podman._trees(found, _container({"root": {"path": ""}, "linux": {}}))
        podman._log(found)
        belongings.volumes_of(found)


def docker_inspect(data: bytes) -> None:
    found = shape.parse(data, docker.RUNNING, "docker's description")
    if docker.unmovable(found) is None:
        shape.check(found, docker.FILES, "docker's description")
        docker._trees(found, _container({"root": {"path": ""}, "linux": {}}))
        belongings.volumes_of(found)


def description(data: bytes) -> None:
    """Read what a source tells of a container; the first letter names the engine."""
    fields = json.loads(data[1:])
    with Undo() as undo:
        if data[:1] == b"b":
            IncomingBundle(Runc(), "x", fields, undo)
        elif data[:1] == b"p":
            IncomingPodmanContainer("x", fields, undo)
            for network in fields["networks"].values():
                podman_store.difference(network, network)
        else:
            IncomingDockerContainer("x", fields, undo)
            for endpoint in fields["endpoints"].values():
                endpoint_of(endpoint)
            for network in fields["networks"].values():
                docker_store.difference(network, network)


def podman_archive(data: bytes) -> None:
    with file_of(data) as path:
        kept = without_contents(path)
    assert len(kept) <= podman.MOST_PACKED_BYTES + len(data) + 20 * 1024
    complete = with_output(kept, b"line\n")
    assert len(complete) <= len(kept) + 4 * tarfile.BLOCKSIZE
    with tarfile.open(fileobj=io.BytesIO(complete)) as tar:
        assert tar.getmember("ctr.log").size == 5


def docker_archive(data: bytes) -> None:
    directory = Path(tempfile.mkdtemp(prefix="migrate-fuzz-", dir=RAM))
    try:
        archives.unpack(io.BytesIO(data), (), directory)
    finally:
        found = [path for path in directory.rglob("*") if not path.is_dir()]
        assert all(path.is_file() and not path.is_symlink() for path in found)
        assert sum(path.stat().st_size for path in found) <= len(data)
        shutil.rmtree(directory)


def docker_log(data: bytes) -> None:
    assert all(number in (1, 2) and isinstance(text, bytes) for number, text in entries(data))


class Agent:
    """An agent that takes pieces of output."""

    def __init__(self) -> None:
        self.size = 0

    def stream(self, message: Message, parts: Sequence[bytes | memoryview] = ()) -> None:
        (piece,) = parts
        assert bytes(piece).endswith(b"\n")
        assert len(piece) <= MOST_LINE_BYTES + PIECE_BYTES
        self.size += len(piece)


def engine_log(data: bytes) -> None:
    agent = Agent()
    with (
        file_of(data) as path,
        contextlib.closing(OutputSync(cast(AgentClient, agent), path)) as output,
    ):
        assert output.copy() == agent.size
        assert agent.size == data.rfind(b"\n") + 1
        assert output.copy() == 0


def wrapper_words(data: bytes) -> None:
    words = os.fsdecode(data).split("\0")
    command_of(words)
    for name in ("--bundle", "-b", "--root", "--log", "--pid-file"):
        assert isinstance(option(words, name), str)


class Held:
    """A container that is held, as the code that writes its output sees it."""

    holds_container = True

    def go(self, frames: Iterable[Frame] = ()) -> object:
        return None

    def abort(self) -> None: ...

    def describe(self) -> str:
        return "it"


def control_word(data: bytes) -> None:
    for alive in (True, False):
        frames = list(late_frames.unpack(data))
        reply = control._obey(Held(), data[:64].decode(errors="replace"), alive, frames)
        assert reply.outcome is not control.Outcome.FAILED
        sent = reply.encode()
        assert len(sent) <= control.MAX_ANSWER
        assert control.reply_in(sent) == reply


def control_answer(data: bytes) -> None:
    assert isinstance(control.reply_in(data).text, str)


def destination(data: bytes) -> None:
    found = Destination.parse(os.fsdecode(data))
    assert found.port is None or 0 < found.port < 1 << 16
    for word in (found.name, found.user or "x"):
        assert word.isprintable()
        assert not word.startswith("-")
        assert not set(word) & set(";&|`\"'<>(){} \t\n")


def bandwidth(data: bytes) -> None:
    assert 1000 <= rate(os.fsdecode(data)) < 10**15


def number(data: bytes) -> None:
    assert 1 <= count(os.fsdecode(data)) <= MOST_COUNT


def _archive(*names: str) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            entry.size = 0 if name.endswith("/") else 9
            tar.addfile(entry, io.BytesIO(b'{"a": 12}'))
    return written.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


_MOUNT = {"Type": "volume", "Destination": "/d", "Source": "/s", "Name": "v", "Driver": "local"}
_PODMAN = dict(
    dict.fromkeys(("Id", "Name", "Image", "ImageName"), "x"),
    Pod="",
    OCIRuntime="/usr/bin/crun",
    Config={"Tty": False},
    Mounts=[_MOUNT],
    HostConfig={
        "NetworkMode": "bridge",
        "LogConfig": {"Path": "/l"},
        "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
    },
    State={"ConmonPid": 1, "CgroupPath": "/c"},
    GraphDriver={"Name": "overlay", "Data": {"UpperDir": "/u", "MergedDir": "/m"}},
    NetworkSettings={"Networks": {"n": {}}},
)
_DOCKER = dict(
    dict.fromkeys(("Id", "Name", "Image", "LogPath"), "/x"),
    Driver="overlay2",
    Config={"Tty": False, "Image": "i"},
    Mounts=[_MOUNT],
    HostConfig={"NetworkMode": "n", "Runtime": "runc", "RestartPolicy": {"Name": "no"}},
    NetworkSettings={"Networks": {"n": {}}, "SandboxKey": "/k"},
    GraphDriver={"Data": {"MergedDir": "/m", "UpperDir": "/u"}},
)
_CONFIG = {
    "root": {"path": "rootfs"},
    "mounts": [{"destination": "/x", "type": "bind", "source": "/y", "options": ["rbind", "ro"]}],
    "linux": {
        "namespaces": [{"type": "network", "path": "/n"}],
        "cgroupsPath": "/c",
        "resources": {"cpu": {}},
    },
}
_RUNC = {
    "config": {"cgroups": {"memory": 1, "cpu_quota": 2}},
    "external_descriptors": ["/dev/null", "pipe:[1]"],
}
_BUNDLE = {
    "bundle": "/b",
    "rootfs": "/b/r",
    "descriptors": ["pipe:[1]"],
    "owned": {"/b": [493, 0, 0]},
    "config": _CONFIG,
}
_VOLUMES: Mapping[str, Any] = {
    "/d": {"Name": "v", "Driver": "local", "Options": {}, "Labels": None}
}
_OF_PODMAN = {
    "id": "x",
    "runtime": "crun",
    "cgroup": "/c",
    "restart": {"Name": "always", "MaximumRetryCount": 0},
    "log": None,
    "volumes": _VOLUMES,
    "image": {"id": "i", "name": "n", "layers": ["sha256:0"]},
    "networks": {
        "n": {
            "name": "n",
            "driver": "bridge",
            "subnets": [{"subnet": "10.0.0.0/24", "gateway": "10.0.0.1"}],
        }
    },
}
_OF_DOCKER = {
    "container": {name: _DOCKER[name] for name in ("Config", "Image")}
    | {
        "Name": "/x",
        "HostConfig": {"LogConfig": {"Type": "json-file"}, "RestartPolicy": {"Name": "no"}},
    },
    "endpoints": {
        "n": {"IPAddress": "10.0.0.2", "GlobalIPv6Address": "", "MacAddress": "02:00:00:00:00:01"}
    },
    "networks": {"n": {"Name": "n", "IPAM": {"Config": []}}},
    "volumes": _VOLUMES,
    "layers": ["sha256:0"],
    "descriptors": [],
}
_DAMAGED = (DataInvalid,)
PARSERS = {
    "config.json": Parser(run=bundle, refuses=_DAMAGED, seeds=(_json(_CONFIG),)),
    "oci-state": Parser(
        run=runtime_state,
        refuses=_DAMAGED,
        seeds=(_json({"status": "running", "pid": 7, "bundle": "/b"}),),
    ),
    "runc-state": Parser(run=runc_state, refuses=_DAMAGED, seeds=(_json(_RUNC),)),
    "crun-status": Parser(
        run=crun_status,
        refuses=_DAMAGED,
        seeds=(_json({"external_descriptors": '["/dev/null"]'}), b"{}"),
    ),
    "podman-inspect": Parser(run=podman_inspect, refuses=_DAMAGED, seeds=(_json(_PODMAN),)),
    "docker-inspect": Parser(run=docker_inspect, refuses=_DAMAGED, seeds=(_json(_DOCKER),)),
    "description": Parser(
        run=description,
        refuses=(
            *_DAMAGED,
            ValueError,
            RecursionError,
        ),  # the last two come of this function's own JSON
        seeds=(b"b" + _json(_BUNDLE), b"p" + _json(_OF_PODMAN), b"d" + _json(_OF_DOCKER)),
    ),
    "podman-archive": Parser(
        run=podman_archive,
        refuses=(ImageError,),
        seeds=(_archive("config.dump", "checkpoint/", "ctr.log"),),
    ),
    "docker-archive": Parser(
        run=docker_archive,
        refuses=(ImageError,),
        seeds=(_archive("blobs/", "blobs/sha256/", "blobs/sha256/1"),),
    ),
    "docker-log": Parser(
        run=docker_log, refuses=(), seeds=(b'{"log":"x\\n","stream":"stdout"}\n' * 2,)
    ),
    "engine-log": Parser(run=engine_log, refuses=(), seeds=(b"2026-01-01 stdout F x\n" * 3, b"x")),
    "wrapper-words": Parser(
        run=wrapper_words,
        refuses=(),
        seeds=(b"--root\0/r\0create\0--bundle\0/b\0--pid-file=/p\0id",),
    ),
    "control-word": Parser(
        run=control_word, refuses=(), seeds=(b"go", b"go --source-is-dead", b"abort", b"status")
    ),
    "control-answer": Parser(
        run=control_answer,
        refuses=(ConnectionError,),
        seeds=(_json({"outcome": "ok", "text": "it runs"}),),
    ),
    "destination": Parser(
        run=destination,
        refuses=(ValueError,),
        seeds=(b"root@beta:22", b"ssh://root@[fe80::1%eth0]:22/", b"::1"),
    ),
    "rate": Parser(
        run=bandwidth, refuses=(argparse.ArgumentTypeError,), seeds=(b"50M", b"1.5G", b"3000")
    ),
    "count": Parser(run=number, refuses=(argparse.ArgumentTypeError,), seeds=(b"1", b"300")),
}

"""Tests of migrate/phases/preflight.py: what the checks of both hosts refuse."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from checkpoint.engines import registry
from checkpoint.engines.base import ROOTFS, Container, Engine, Tree
from checkpoint.engines.belongings import SHM
from checkpoint.engines.docker.engine import Docker
from checkpoint.engines.podman.engine import Podman
from migrate.errors import NoSuchContainer
from migrate.phases import preflight
from migrate.wire import protocol
from migrate.wire.protocol import Answer, ProtocolError
from migrate.wire.values import OwnAddress, Station
from tests.unit.helpers.engines import podman_that, stopped_docker
from tests.unit.migrate.answering import Target

DIGEST = "sha256:" + "a" * 64


class OfOneLayer:
    """An engine of a container whose image has one layer."""

    def describe(self, container: Container) -> dict[str, Any]:
        return {}

    def layers(self, container: Container) -> list[str]:
        return [DIGEST]


def container(directory: Path, **changed: Any) -> Container:
    """Return a container in a directory, with some of its fields changed."""
    fields: dict[str, Any] = {
        "id": "web",
        "name": "web",
        "pid": 1,
        "bundle": directory,
        "rootfs": directory,
        "config": {},
        "resources": {},
        "descriptors": (),
        "trees": (Tree(destination=ROOTFS, root=directory),),
        "network_namespace": None,
    }
    return Container(**{**fields, **changed})


def test_a_layer_that_the_image_has_not_is_refused(target: Target, tmp_path: Path) -> None:
    target.will_say(protocol.Examined(objections=(), layers=(DIGEST, "sha256:" + "b" * 64)))
    with pytest.raises(ProtocolError, match="answered Examine by 'sha256:bbb"):
        preflight.check_engine(
            target.agent, cast(Engine, OfOneLayer()), container(tmp_path), "beta"
        )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (protocol.PathsFound(missing=("/etc/shadow",), taken=(), shared=False), "'/etc/shadow'"),
        (protocol.PathsFound(missing=(), taken=("/etc/shadow",), shared=False), "'/etc/shadow'"),
        (
            protocol.PathsFound(missing=(), taken=(), shared=True),
            "shares files that it was not asked for",
        ),
    ],
)
def test_paths_that_were_not_asked_for_are_refused(
    target: Target, tmp_path: Path, answer: Answer, said: str
) -> None:
    target.will_say(answer)
    with pytest.raises(ProtocolError, match=said):
        preflight.check_paths(target.agent, container(tmp_path, engine_network=True), "beta")


def test_an_address_that_was_not_asked_for_is_refused(target: Target) -> None:
    asked = (OwnAddress("10.0.0.1", "02:00:00:00:00:01", "br0"),)
    target.will_say(protocol.AddressesFound(taken=(Station("10.0.0.2", "02:00:00:00:00:02"),)))
    with pytest.raises(ProtocolError, match=r"'10\.0\.0\.2'"):
        preflight.check_addresses(target.agent, asked, "beta")


MIB = 1 << 20


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory that is a tmpfs of 64 MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("size", ["64m", "0"])
def test_the_engines_shared_memory_is_counted_whatever_its_limit(
    mounted: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(mounted)], check=True)
    (mounted / "file").write_bytes(bytes(5 * MIB))
    counted: list[int] = []
    monkeypatch.setattr(preflight, "own_mounts", lambda _: [])
    monkeypatch.setattr(preflight, "check_host", lambda *_: None)
    monkeypatch.setattr(
        preflight, "check_pair", lambda *_, **facts: counted.append(facts["tmpfs_bytes"])
    )
    container: Any = SimpleNamespace(
        pid=os.getpid(), name="x", trees=[Tree(destination=SHM, root=mounted)]
    )
    facts: Any = None
    preflight.check_target(facts, facts, container, 0)
    assert counted == [5 * MIB]


@pytest.mark.usefixtures("no_engines")
def test_an_engine_that_cannot_be_asked_keeps_no_other_from_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_docker()
    podman_that(tmp_path, "exit 0")
    monkeypatch.setattr(registry, "ENGINES", {"docker": Docker, "podman": Podman})
    assert preflight.choose_engine(None, "web").name == "podman"


@pytest.mark.usefixtures("no_engines")
def test_an_engine_that_could_not_be_asked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_docker()
    podman_that(tmp_path, "exit 1")
    for module in (registry, preflight):
        monkeypatch.setattr(module, "ENGINES", {"docker": Docker, "podman": Podman})
    with pytest.raises(
        NoSuchContainer,
        match=r"'web' on this host \(podman could be asked; docker does not answer",
    ):
        preflight.choose_engine(None, "web")

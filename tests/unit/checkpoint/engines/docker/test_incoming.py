"""Tests of checkpoint/engines/docker/incoming.py: what the target's docker is given."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines import left_behind
from checkpoint.engines.docker import incoming, oci_wrapper
from checkpoint.engines.docker.incoming import (
    RUNTIME,
    IncomingDockerContainer,
    Waiting,
    endpoint_of,
    entries,
)
from checkpoint.errors import ConversationLost, EngineRefused, ImageError
from checkpoint.undo import Undo
from tests.rig import until
from tests.unit.checkpoint.engines.docker.dockerd import Dockerd

#: The endpoint of a container, as docker describes it.
ENDPOINT: dict[str, Any] = {
    "IPAMConfig": None,
    "Links": None,
    "Aliases": None,
    "DriverOpts": None,
    "GwPriority": 0,
    "NetworkID": "1" * 64,
    "EndpointID": "2" * 64,
    "Gateway": "10.90.0.1",
    "IPAddress": "10.90.0.2",
    "MacAddress": "02:42:0a:5a:00:02",
    "IPPrefixLen": 24,
    "IPv6Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "DNSNames": ["box", "3" * 12],
}


def test_an_endpoint_keeps_its_addresses_and_nothing_of_its_host() -> None:
    assert endpoint_of(ENDPOINT) == {
        "MacAddress": "02:42:0a:5a:00:02",
        "IPAMConfig": {"IPv4Address": "10.90.0.2"},
    }


def test_an_endpoint_keeps_all_that_a_user_can_set() -> None:
    given = {"Links": ["other:o"], "Aliases": ["db"], "DriverOpts": {"a": "b"}, "GwPriority": 5}
    assert endpoint_of({**ENDPOINT, **given, "GlobalIPv6Address": "fd00::2"}) == {
        **given,
        "MacAddress": "02:42:0a:5a:00:02",
        "IPAMConfig": {"IPv4Address": "10.90.0.2", "IPv6Address": "fd00::2"},
    }


def test_an_endpoint_of_ipv6_alone_has_that_address() -> None:
    found = endpoint_of({**ENDPOINT, "IPAddress": "", "GlobalIPv6Address": "fd00::2"})
    assert found["IPAMConfig"] == {"IPv6Address": "fd00::2"}


def test_lines_of_a_log_that_are_no_entries_are_passed_over() -> None:
    lines = [
        b'{"log":"one\\n","stream":"stdout","time":"t"}',
        b'{"log":"two\\n","stream":"stderr"}',
        *(
            b"",
            b"[]",
            b"null",
            b"{",
            b"\xff",
            b"[" * 100_000,
            b'{"log":1,"stream":"stdout"}',
            b'{"log":"x","stream":["stdout"]}',
        ),
        *(b'{"log":"x","stream":"3"}', b'{"log":"x"}', b'{"stream":"stdout"}'),
        b'{"log":"\\ud800","stream":"stdout"}',
    ]
    assert list(entries(b"\n".join(lines))) == [(1, b"one\n"), (2, b"two\n"), (1, b"?")]


IMAGE = {"Id": "sha256:ff", "RootFS": {"Layers": ["sha256:1a"]}}


def fields(*, log: str = "json-file", **changes: Any) -> dict[str, Any]:
    """Return what the source tells of a container."""
    host = {"LogConfig": {"Type": log}, "RestartPolicy": {"Name": "always"}, "Memory": 1 << 20}
    endpoint = {"IPAddress": "10.1.0.2", "GlobalIPv6Address": "", "MacAddress": "02:00:00:00:00:01"}
    return {
        "container": {
            "Config": {"Image": "redis", "Env": ["A=b"]},
            "HostConfig": host,
            "Image": "sha256:ff",
            "Name": "/box",
        },
        "endpoints": {"net": endpoint},
        "networks": {"net": {"Name": "net", "IPAM": {"Config": None}}},
        "volumes": {"/data": {"Name": "data", "Driver": "local"}},
        "layers": ["sha256:1a", "sha256:2b"],
        "descriptors": ["/dev/null"],
        **changes,
    }


@pytest.fixture
def undo() -> Iterator[Undo]:
    with Undo() as undo:
        yield undo


@pytest.fixture
def program(tmp_path: Path, docker: Dockerd) -> Path:
    """Return the path of docker's runtime for incoming containers, which is of this version."""
    path = tmp_path / "runtime"
    path.write_bytes(Path(oci_wrapper.__file__).read_bytes())
    docker.runtimes[RUNTIME] = {"path": str(path)}
    return path


def objections(undo: Undo) -> list[str]:
    return IncomingDockerContainer("box", fields(), undo).objections()


def test_a_docker_that_is_ready_has_no_objection(program: Path, undo: Undo) -> None:
    assert objections(undo) == []


def test_a_docker_without_the_runtime_is_an_objection(
    program: Path, docker: Dockerd, undo: Undo
) -> None:
    program.write_bytes(b"#!/bin/sh\n")
    assert [said.partition(" (")[0] for said in objections(undo)] == [
        "docker's runtime 'migrate' there is of another version"
    ]
    program.unlink()
    said = ["docker has no runtime 'migrate' there"]
    assert [each.partition(" (")[0] for each in objections(undo)] == said
    del docker.runtimes[RUNTIME]
    assert [each.partition(" (")[0] for each in objections(undo)] == said


def test_a_volume_of_somebody_else_is_an_objection(
    program: Path, docker: Dockerd, undo: Undo
) -> None:
    docker.volumes["data"] = {"Name": "data", "CreatedAt": "then"}
    assert objections(undo) == ["docker's volume 'data' is there already, and no move has left it"]


def test_layers_that_docker_has_need_not_be_sent(docker: Dockerd, undo: Undo) -> None:
    arriving = IncomingDockerContainer("box", fields(), undo)
    assert arriving.layers_there() == []
    docker.images["base"] = {**IMAGE, "Id": "sha256:ee"}
    assert arriving.layers_there() == ["sha256:1a"]
    docker.images["redis"] = IMAGE
    assert arriving.layers_there() is None


def test_only_the_image_that_was_meant_is_taken(
    docker: Dockerd, undo: Undo, tmp_path: Path
) -> None:
    (tmp_path / "image").mkdir()
    arriving = IncomingDockerContainer("box", fields(), undo)
    with pytest.raises(ImageError, match="what arrived is not the image sha256:ff"):
        arriving.load_image(tmp_path / "image")
    docker.images["redis"] = IMAGE
    arriving.load_image(tmp_path / "image")


def test_a_container_is_made_like_the_sources_and_goes_with_a_roll_back(docker: Dockerd) -> None:
    docker.images["redis"] = IMAGE
    with Undo() as undo:
        arriving = IncomingDockerContainer("box", fields(), undo)
        assert arriving.volumes() == ["data"]
        roots = arriving.prepare(b"", shared=False)
        assert roots == {"/data": Path(docker.volumes["data"]["Mountpoint"])}
        made = docker.body("/containers/create")
        assert (made["Image"], made["Env"]) == ("redis", ["A=b"])
        assert made["HostConfig"] == {
            **fields()["container"]["HostConfig"],
            "Runtime": RUNTIME,
            "RestartPolicy": {"Name": "no"},
        }
        assert made["NetworkingConfig"]["EndpointsConfig"]["net"] == {
            "MacAddress": "02:00:00:00:00:01",
            "IPAMConfig": {"IPv4Address": "10.1.0.2"},
        }
    assert (docker.containers, docker.networks, docker.volumes) == ({}, {}, {})


@pytest.mark.parametrize("named", [{}, {"redis": {**IMAGE, "Id": "sha256:other"}}])
def test_an_image_whose_name_means_another_is_taken_by_its_id(
    docker: Dockerd, named: dict[str, Any]
) -> None:
    docker.images = named
    assert incoming.body_of(fields())["Image"] == "sha256:ff"


def test_a_docker_that_refuses_the_container_keeps_nothing_else(docker: Dockerd) -> None:
    docker.refuses["POST /containers/create"] = "Conflict. The container name is already in use"
    with Undo() as undo, pytest.raises(EngineRefused, match="already in use"):
        IncomingDockerContainer("box", fields(), undo).prepare(b"", shared=False)
    assert (docker.networks, docker.volumes) == ({}, {})


def prepared(docker: Dockerd, undo: Undo, log: str) -> IncomingDockerContainer:
    arriving = IncomingDockerContainer("box", fields(log=log), undo)
    arriving.prepare(b"", shared=False)
    (docker.directory / "containers/1f2e").mkdir(parents=True)
    return arriving


def test_the_log_goes_on_with_the_output_of_the_source(docker: Dockerd, undo: Undo) -> None:
    """Lines go to the file until docker has it open, and then to the streams that docker reads."""
    arriving = prepared(docker, undo, "json-file")
    log = docker.directory / "containers/1f2e/1f2e-json.log"
    arriving.take_output(b"one\n")
    arriving.take_output(b"two\n")
    assert log.read_bytes() == b"one\ntwo\n"
    assert log.stat().st_mode & 0o777 == 0o640
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    with (
        socket.socket(socket.AF_UNIX) as agent,
        subprocess.Popen(["cat"], stdin=pipe, stdout=pipe, stderr=both) as process,
    ):
        arriving.waiting = Waiting(agent, process.pid, docker.directory, docker.directory)
        lines = [{"stream": name, "log": f"to {name}\n"} for name in ("stdout", "stderr", "odd")]
        arriving.take_output("\n".join(map(json.dumps, lines)).encode())
        assert process.communicate()[0] == b"to stdout\nto stderr\n"


def test_output_for_a_log_that_docker_keeps_elsewhere_is_dropped(
    docker: Dockerd, undo: Undo
) -> None:
    prepared(docker, undo, "journald").take_output(b"one\n")
    assert list((docker.directory / "containers").rglob("*.log")) == []


# --- the restore ---------------------------------------------------------------------------------


@pytest.fixture
def started(
    docker: Dockerd, undo: Undo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> IncomingDockerContainer:
    """Return an arrival that waits for docker's runtime. `docker start` does nothing."""
    monkeypatch.setattr(incoming, "DIRECTORY", str(tmp_path / "sockets"))
    monkeypatch.setattr(incoming, "start_logged", lambda *_: None)
    arriving = prepared(docker, undo, "json-file")
    arriving.start_restore(tmp_path, tmp_path, {"A": "b"})
    return arriving


def asked(tmp_path: Path, question: dict[str, str]) -> socket.socket:
    """Return the connection of a runtime that has asked the arrival something."""
    return oci_wrapper.ask(str(tmp_path / "sockets/1f2e"), question)


def created(tmp_path: Path) -> socket.socket:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    namespaces = [{"type": "network"}, {"type": "mount"}]
    (bundle / "config.json").write_text(json.dumps({"linux": {"namespaces": namespaces}}))
    return asked(tmp_path, {"command": "create", "root": "/r", "bundle": str(bundle)})


def waits(arriving: IncomingDockerContainer) -> None:
    until(lambda: arriving.waiting, "the process to be known")


def test_the_process_that_waits_becomes_the_container(
    started: IncomingDockerContainer, tmp_path: Path
) -> None:
    with created(tmp_path) as process:
        waits(started)
        with asked(tmp_path, {"command": "start"}) as runtime:
            order = json.loads(process.recv(1 << 16))
            assert order["argv"][:3] == ["runc", "--root", "/r"]
            assert order["env"] == {"A": "b"}
            (tmp_path / "pid").write_text("4242")
            assert json.loads(runtime.recv(100)) == {"failure": ""}
    config = json.loads((tmp_path / "bundle/config.json").read_text())
    network, mount = config["linux"]["namespaces"]
    assert network["path"] == f"/proc/{os.getpid()}/ns/net"
    assert "path" not in mount


@pytest.mark.parametrize(("words", "told"), [(b"", ""), (b"in the way", " (in the way)")])
def test_a_runc_that_fails_fails_the_start(
    started: IncomingDockerContainer, tmp_path: Path, words: bytes, told: str
) -> None:
    with created(tmp_path) as process:
        waits(started)
        with asked(tmp_path, {"command": "start"}) as runtime:
            process.recv(1 << 16)
            if words:
                process.send(words)
            process.close()
            assert json.loads(runtime.recv(100)) == {"failure": f"runc could not restore it{told}"}


def test_a_process_that_has_ended_fails_the_start(
    started: IncomingDockerContainer, tmp_path: Path
) -> None:
    with created(tmp_path) as process:
        waits(started)
        process.close()
        with asked(tmp_path, {"command": "start"}) as runtime:
            said = json.loads(runtime.recv(200))["failure"]
    assert said.startswith("the process that was to become it has ended")


def shim_with(start: str) -> subprocess.Popen[str]:
    """Start a shim whose child runs a script as docker's runtime, and wait for the child's word."""
    run = f"subprocess.run([sys.executable, '-c', {start!r}])"
    script = f"import subprocess, sys, time; {run}; time.sleep(30)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.parametrize("who", ["dockerd", "docker's shim", "the start by docker's runtime"])
def test_a_held_container_that_docker_would_not_keep_is_found(
    started: IncomingDockerContainer, docker: Dockerd, tmp_path: Path, who: str
) -> None:
    start = (
        "import os, time; from checkpoint.engines.docker import oci_wrapper;"
        f" peer = oci_wrapper.ask({str(tmp_path / 'sockets/1f2e')!r}, {{'command': 'start'}});"
        f" open({str(tmp_path / 'start')!r}, 'w').write(str(os.getpid()));"
        " print(flush=True); time.sleep(30)"
    )
    with created(tmp_path) as process:
        waits(started)
        with shim_with(start) as shim:
            process.recv(1 << 16)
            started.restore_held()
            started.check_held()
            if who == "dockerd":
                docker.ended.set()
            else:
                pid = shim.pid if who == "docker's shim" else int((tmp_path / "start").read_text())
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(ConversationLost, match=f"{who} has ended"):
                until(started.check_held, "it to be seen")
            with contextlib.suppress(ProcessLookupError):
                os.kill(int((tmp_path / "start").read_text()), signal.SIGKILL)
            shim.kill()


def test_docker_has_the_container_for_good(
    started: IncomingDockerContainer, undo: Undo, docker: Dockerd, tmp_path: Path
) -> None:
    left_behind.note("docker", "data", "2024-01-01T00:00:00Z")
    docker.containers["1f2e"]["State"] = {"Status": "running", "Pid": os.getpid()}
    started.settle()
    undo.settle()
    policy = docker.containers["1f2e"]["HostConfig"]["RestartPolicy"]
    assert policy == {"Name": "always", "MaximumRetryCount": 0}
    assert not left_behind.is_noted("docker", "data", "2024-01-01T00:00:00Z")
    assert not (tmp_path / "sockets").exists()

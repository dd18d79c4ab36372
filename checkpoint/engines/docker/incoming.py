"""The arrival of a container in docker, which creates and starts the container like any other.

The container's OCI runtime is oci_wrapper.py, which asks IncomingDockerContainer what to do. The
wrapper's `create` leaves a process behind that docker takes for the container's init. docker then
furnishes the network namespace of that process. The wrapper's `start` has the process restore the
container into that namespace, and ends when the container runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from checkpoint.engines import layers, restart_policy, shape
from checkpoint.engines.belongings import VOLUME, Belongings, start_logged
from checkpoint.engines.docker import api, store
from checkpoint.engines.docker.attending import Attending
from checkpoint.engines.docker.oci_wrapper import DIRECTORY, MAX_MESSAGE
from checkpoint.engines.made import MadeContainer
from checkpoint.engines.oci.runc import Runc
from checkpoint.engines.shape import Each, Maybe, Shape
from checkpoint.host import cgroups, proc, whole
from checkpoint.host.identity import PathRecord
from checkpoint.host.listener import Listener, peer_pid
from checkpoint.host.ownership import private_directory
from checkpoint.host.ready import ready
from checkpoint.undo import Made, Undo

#: The name by which docker knows oci_wrapper.py.
RUNTIME = "migrate"
LOOK_AGAIN_S = 0.005
#: Descriptors of the standard streams, by their names in a json-file log.
STREAMS = {"stdout": 1, "stderr": 2}


#: What IncomingDockerContainer reads of what Docker.describe returns.
DESCRIPTION: Shape = {
    "container": {
        "Config": {"Image": str},
        "HostConfig": {
            "LogConfig": {"Type": str},
            "RestartPolicy": {"Name": str, "MaximumRetryCount": Maybe(int)},
        },
        "Image": str,
        "Name": str,
    },
    "endpoints": Each({"IPAddress": str, "GlobalIPv6Address": str, "MacAddress": str}),
    "networks": Each(store.NETWORK),
    "volumes": Each(VOLUME),
    "layers": [str],
    "descriptors": [str],
}


class RuntimeSocket(Made):
    """The socket in DIRECTORY at which docker's OCI runtime finds the agent."""

    on_disk = False

    path: PathRecord

    def __str__(self) -> str:
        return f"socket {self.path.path}"

    def remove(self) -> None:
        if self.path.is_same():
            Path(self.path.path).unlink()
        with contextlib.suppress(OSError):  # other arrivals have sockets in it
            Path(DIRECTORY).rmdir()


class Waiting(NamedTuple):
    """The process that the wrapper's `create` has left for docker, as the container's init.

    `agent` is the connection to it, and reaches its end when the process ends. `root` and `bundle`
    are where runc keeps the container.
    """

    agent: socket.socket
    pid: int
    root: Path
    bundle: Path


class IncomingDockerContainer:
    """An IncomingContainer by docker's `create` and `start`."""

    keeps_files = True

    def __init__(self, name: str, fields: Mapping[str, Any], undo: Undo) -> None:
        shape.check(fields, DESCRIPTION, "what the source told of the container")
        self._name, self._fields, self._undo = name, fields, undo
        self._belongings = Belongings("docker", store, fields["networks"], fields["volumes"])
        self._id = ""
        self._log: Path | None = None
        self._listener: Listener | None = None
        self._starting: socket.socket | None = None
        self._attending: Attending | None = None
        self._pid_file: Path | None = None
        self.waiting: Waiting | None = None

    def objections(self) -> list[str]:
        return list(self._objections())

    def volumes(self) -> list[str]:
        return self._belongings.volumes()

    def layers_there(self) -> list[str] | None:
        if store.image(self._fields["container"]["Image"]) is not None:
            return None
        return layers.common(self._fields["layers"], store.layers_of_all_images())

    def load_image(self, directory: Path) -> None:
        store.load_image(directory, self._fields["container"]["Image"])

    def prepare(self, packed: bytes, *, shared: bool) -> dict[str, Path]:
        volumes = self._belongings.make(self._undo)
        created = api.call("POST", "/containers/create", body_of(self._fields), name=self._name)
        self._id = created["Id"]
        self._undo.made(MadeContainer(engine="docker", id=self._id))
        policy = self._fields["container"]["HostConfig"]["RestartPolicy"]
        restart_policy.give_later("docker", self._id, self._name, policy, self._undo)
        root = api.call("GET", "/info")["DockerRootDir"]
        if self._fields["container"]["HostConfig"]["LogConfig"]["Type"] == "json-file":
            self._log = Path(root) / "containers" / self._id / f"{self._id}-json.log"
        return volumes

    def take_output(self, lines: bytes) -> None:
        """Append lines of the source's json-file log to the log of docker on the target.

        docker does not see what others append once it has the log open. From then on the lines are
        written to the standard streams of the process that `create` left, and docker logs them.
        Ignored when docker's log driver for the container is not json-file.
        """
        if self._log is None:
            return
        if self.waiting is None:
            fd = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            with open(fd, "ab") as log:
                os.fchmod(fd, 0o640)  # docker gives its logs this mode
                log.write(lines)
            return
        for number, text in entries(lines):
            with open(proc.path(self.waiting.pid, "fd", number), "wb", buffering=0) as stream:
                whole.write(stream.fileno(), text)

    def start_restore(
        self, directory: Path, images: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        api.await_answer()
        (images / "descriptors.json").write_text(json.dumps(self._fields["descriptors"]))
        private_directory(Path(DIRECTORY))
        serve = partial(self._serve, images, env)
        path = Path(DIRECTORY) / self._id
        self._listener = Listener(path, serve, "docker's runtime")
        socket_file = RuntimeSocket(path=PathRecord.of(path))
        self._undo.made(socket_file)
        self._undo.passing(socket_file)
        self._undo.callback(self._stop_listening)
        self._undo.callback(api.await_answer)
        return start_logged(["docker", "start", self._id], images)

    def restore_held(self) -> None:
        """Record runc's container, and its cgroups, neither of which docker's own removal knows."""
        assert self.waiting is not None
        assert self._starting is not None
        self._attending = Attending(self._starting)
        config = json.loads((self.waiting.bundle / "config.json").read_text())
        # docker uses no id twice, and it is in the path: whatever is there is this container's.
        self._undo.made(cgroups.Hierarchies(config["linux"].get("cgroupsPath") or "").made())
        with contextlib.suppress(OSError):
            self._undo.made(Runc(self.waiting.root).made(self._id))

    def check_held(self) -> None:
        if self._attending is not None:
            self._attending.check()

    def handover(self) -> tuple[Callable[[list[int]], None], list[int]]:
        assert self.waiting is not None
        assert self._starting is not None
        assert self._pid_file is not None
        descriptors = [self.waiting.agent.fileno(), self._starting.fileno()]
        return partial(finish_start, self._pid_file), descriptors

    def settle(self) -> None:
        self._stop_listening()

    def _objections(self) -> Iterator[str]:
        program = store.runtime_program(RUNTIME)
        if program is None or not program.exists():
            yield (
                f"docker has no runtime {RUNTIME!r} there ('migratectl docker-runtime' installs it)"
            )
        elif program.read_bytes() != pkgutil.get_data(__package__, "oci_wrapper.py"):
            yield (
                f"docker's runtime {RUNTIME!r} there is of another version"
                " ('migratectl docker-runtime' renews it)"
            )
        yield from self._belongings.objections()

    def _stop_listening(self) -> None:
        assert self._listener is not None
        self._listener.close()
        if self._attending is not None:
            self._attending.close()
            self._attending = None
        with contextlib.suppress(OSError):  # other arrivals have sockets in it
            Path(DIRECTORY).rmdir()

    def _serve(self, images: Path, env: Mapping[str, str], peer: socket.socket) -> None:
        said = json.loads(peer.recv(MAX_MESSAGE))
        if said["command"] == "create":
            root, bundle = Path(said["root"]), Path(said["bundle"])
            self.waiting = Waiting(peer, peer_pid(peer), root, bundle)
            return
        assert self.waiting is not None
        self._starting, self._pid_file = peer, images / "pid"
        with peer, self.waiting.agent as agent:
            try:
                self._become_container(agent, images, env)
                failure = why_not_restored(agent, self._pid_file)
            except OSError as error:
                failure = ended(error)
            answer_start(peer, failure)

    def _become_container(self, agent: socket.socket, images: Path, env: Mapping[str, str]) -> None:
        """Have the process that `create` left restore the container. Raises OSError."""
        assert self.waiting is not None
        _, pid, root, bundle = self.waiting
        use_network(bundle, pid)
        pid_file = str(self._pid_file)
        argv = Runc(root).restore_command(self._id, bundle, images, "--pid-file", pid_file)
        agent.send(json.dumps({"argv": argv, "env": dict(env), "pid_file": pid_file}).encode())


def why_not_restored(agent: socket.socket, pid_file: Path) -> str:
    """Wait until the container runs, and return why it does not, or "".

    `agent` is the connection to the process that becomes the container, and `pid_file` is written
    by runc when the container runs. Raises OSError.
    """
    while not pid_file.exists():
        if ready(agent.fileno(), timeout_s=LOOK_AGAIN_S):
            why = agent.recv(MAX_MESSAGE).decode(errors="replace")
            return f"runc could not restore it{f' ({why})' if why else ''}"
    return ""


def ended(error: OSError) -> str:
    """Return why the container does not run, when the connection to its process has failed."""
    return f"the process that was to become it has ended ({error.strerror})"


def answer_start(peer: socket.socket, failure: str) -> None:
    """Answer the wrapper's `start`, which then ends; it need not be there any more."""
    with contextlib.suppress(OSError):
        peer.send(json.dumps({"failure": failure}).encode())


def finish_start(pid_file: Path, descriptors: list[int]) -> None:
    """Do the rest of the wrapper's `start` in the place of an agent that was killed.

    `descriptors` are the connections to the process that becomes the container, and to `start`.
    """
    agent, peer = (socket.socket(fileno=fd) for fd in descriptors)
    with agent, peer:
        try:
            failure = why_not_restored(agent, pid_file)
        except OSError as error:
            failure = ended(error)
        answer_start(peer, failure)


def use_network(bundle: Path, pid: int) -> None:
    """Enter the network namespace that docker has furnished into the bundle's config.json.

    The spec in that file asks for a new one, but that of the waiting process `pid` is to be used.
    """
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    for namespace in config["linux"]["namespaces"]:
        if namespace["type"] == "network":
            namespace.setdefault("path", proc.path(pid, "ns", "net"))
    path.write_text(json.dumps(config))


def entries(lines: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (descriptor, bytes written to it) of each entry in lines of a json-file log.

    Lines that are no entries of such a log are ignored.
    """
    for line in lines.split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                number, text = STREAMS.get(str(entry.get("stream"))), entry.get("log")
                if number is not None and isinstance(text, str):
                    # JSON may hold half a surrogate pair, which UTF-8 cannot encode.
                    yield number, text.encode(errors="replace")


def body_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of the API's ContainerCreate: the source's container, with its addresses.

    `fields` is what Docker.describe returned on the source. The restart policy is "no" until
    `settle`, because docker must not restart a container that is not its own yet. Raises
    EngineRefused.
    """
    container = fields["container"]
    config = dict(container["Config"])
    named = api.call("GET", f"/images/{config['Image']}/json")
    # On the target the image's name may mean another image, or nothing. Then its id is used.
    if named is None or named["Id"] != container["Image"]:
        config["Image"] = container["Image"]
    return {
        **config,
        "HostConfig": {
            **container["HostConfig"],
            "Runtime": RUNTIME,
            "RestartPolicy": {"Name": "no"},
        },
        "NetworkingConfig": {
            "EndpointsConfig": {n: endpoint_of(found) for n, found in fields["endpoints"].items()}
        },
    }


def endpoint_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the API's EndpointSettings that give the container the addresses it has on the source.

    `found` is the endpoint as the source's docker describes it.
    """
    ipam = {"IPv4Address": found["IPAddress"], "IPv6Address": found["GlobalIPv6Address"]}
    return {
        **{
            name: found[name]
            for name in ("Links", "Aliases", "DriverOpts", "GwPriority")
            if found.get(name)
        },
        "MacAddress": found["MacAddress"],
        "IPAMConfig": {name: address for name, address in ipam.items() if address},
    }

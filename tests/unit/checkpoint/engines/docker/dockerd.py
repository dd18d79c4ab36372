"""A small dockerd: docker's API on a unix socket, over networks, volumes and the like in memory."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Refused(Exception):
    """The error that docker answers by a status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def not_found(kind: str, name: str) -> Refused:
    return Refused(404, f"no such {kind}: {name}")


class Dockerd:
    """A docker, with a record of all requests as (method, path, query, body).

    `refuses` maps "METHOD path" to the message with which docker refuses that.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.networks: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.images: dict[str, dict[str, Any]] = {}
        self.containers: dict[str, dict[str, Any]] = {}
        self.runtimes: dict[str, dict[str, str]] = {"runc": {"path": "runc"}}
        self.uploads: list[bytes] = []
        #: The archive that a `docker save` of any image gives.
        self.saved = b""
        #: What is said when an image is loaded, and what docker has then.
        self.loads: Callable[[], str] = lambda: '{"stream": "Loaded image"}'
        self.refuses: dict[str, str] = {}
        #: The number of answers in which it has not reached its containerd yet.
        self.without_containerd = 0
        #: The events that a request with an end gets, which says when that is.
        self.events: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.socket = directory / "docker.sock"
        self._server = _Server(str(self.socket), _Handler)
        self._server.dockerd = self
        self.ended = threading.Event()
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    def requests(self, method: str) -> list[str]:
        """Return the paths of all requests of a kind, in order."""
        return [path for asked, path, _, _ in self.asked if asked == method]

    def body(self, path: str) -> Any:
        """Return the body of the last POST to a path."""
        return [body for method, at, _, body in self.asked if (method, at) == ("POST", path)][-1]

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """Return the JSON of an answer, or None for an empty one. Raises Refused."""
        self.asked.append((method, path, query, body))
        if message := self.refuses.get(f"{method} {path}"):
            raise Refused(500, message)
        _, kind, *rest = path.split("/")
        return getattr(self, f"_{method.lower()}_{kind}")(rest, query, body)

    def _get_version(self, rest: list[str], query: dict[str, str], body: Any) -> Any:
        names = ["Engine", "runc"] if self.without_containerd else ["Engine", "containerd"]
        self.without_containerd = max(0, self.without_containerd - 1)
        return {"Components": [{"Name": name} for name in names]}

    def _get_info(self, rest: list[str], query: dict[str, str], body: Any) -> Any:
        return {
            "DockerRootDir": str(self.directory),
            "Runtimes": self.runtimes,
            "SystemTime": "2026-01-01T00:01:00Z",
        }

    def _get_networks(self, rest: list[str], query: dict[str, str], body: Any) -> Any:
        return found(self.networks, "network", rest[0])

    def _post_networks(self, rest: list[str], query: dict[str, str], body: Any) -> Any:
        if body["Name"] in self.networks:
            raise Refused(409, f"network with name {body['Name']} already exists")
        self.networks[body["Name"]] = {**body, "Id": f"id-{body['Name']}"}
        return {"Id": f"id-{body['Name']}"}

    def _delete_networks(self, rest: list[str], query: dict[str, str], body: Any) -> Any:
        name = rest[0].removeprefix("id-")
        found(self.networks, "network", name)
        del self.networks[name]

    def _get_volumes(self, rest: list[str], query: dict[str, str], body: Any) -> Any:
        return found(self.volumes, "volume", rest[0])

    def _post_volumes(self, rest: list[str], query: dict[str, str], body: Any) -> Any:
        root = self.directory / "volumes" / body["Name"]
        root.mkdir(parents=True)
        made = {**body, "Mountpoint": str(root), "CreatedAt": "2024-01-01T00:00:00Z"}
        self.volumes[body["Name"]] = made
        return made

    def _delete_volumes(self, rest: list[str], query: dict[str, str], body: Any) -> Any:
        found(self.volumes, "volume", rest[0])
        del self.volumes[rest[0]]

    def _get_images(self, rest: list[str], query: dict[str, str], body: Any) -> Any:
        if rest == ["json"]:
            return [{"Id": image["Id"]} for image in self.images.values()]
        return found(self.images, "image", "/".join(rest[:-1]))

    def _get_containers(self, rest: list[str], query: dict[str, str], body: Any) -> Any:
        if rest != ["json"]:
            return found(self.containers, "container", rest[0])
        wanted = json.loads(query.get("filters", "{}")).get("volume", [])
        return [
            each
            for each in self.containers.values()
            if not wanted or set(wanted) & {mount.get("Name") for mount in each.get("Mounts", ())}
        ]

    def _post_containers(self, rest: list[str], query: dict[str, str], body: Any) -> Any:
        if rest == ["create"]:
            self.containers["1f2e"] = {**body, "Id": "1f2e", "Name": f"/{query['name']}"}
            return {"Id": "1f2e", "Warnings": []}
        container = found(self.containers, "container", rest[0])
        if rest[1] == "start":
            container["State"]["Status"] = "running"
            return None
        container["HostConfig"].update(body)
        return {"Warnings": None}

    def _delete_containers(self, rest: list[str], query: dict[str, str], body: Any) -> Any:
        found(self.containers, "container", rest[0])
        del self.containers[rest[0]]


def found(things: dict[str, dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """Return a thing by its name or its id. Raises Refused."""
    by_id = {thing["Id"]: thing for thing in things.values() if "Id" in thing}
    if (thing := things.get(name, by_id.get(name))) is None:
        raise not_found(kind, name)
    return thing


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    dockerd: Dockerd


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self._do()

    def do_POST(self) -> None:
        self._do()

    def do_DELETE(self) -> None:
        self._do()

    def _do(self) -> None:
        dockerd, target = self.server.dockerd, urlsplit(self.path)
        path = unquote(target.path).removeprefix("/v1.44")
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/images/load":
            dockerd.uploads.append(data)
            return self._send(HTTPStatus.OK, dockerd.loads().encode())
        if path == "/events" and "until" in query:
            dockerd.asked.append(("GET", path, query, None))
            lines = [json.dumps(event) for event in dockerd.events]
            return self._send(HTTPStatus.OK, "\n".join(lines).encode())
        if path == "/events":
            self.send_response(HTTPStatus.OK)
            self.end_headers()
            self.wfile.flush()
            dockerd.ended.wait()
            return None
        if path.endswith("/get"):
            found(dockerd.images, "image", path.split("/")[2])
            return self._send(HTTPStatus.OK, dockerd.saved, "application/x-tar")
        try:
            answer = dockerd.answer(self.command, path, query, json.loads(data) if data else None)
        except Refused as error:
            words = json.dumps({"message": str(error)})
            return self._send(error.status, words.encode())
        if answer is None:
            return self._send(HTTPStatus.NO_CONTENT, b"")
        return self._send(HTTPStatus.OK, json.dumps(answer).encode())

    def _send(self, status: int, data: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

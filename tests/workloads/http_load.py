"""Clients of an HTTP server that keep their connections: http_load.py ADDRESS PATH CLIENTS.

Each client asks again and again on one connection. Another downloads PATH again and again, slowly
enough to be at it for long. When a line comes on standard input, the clients end, and one line of
JSON is printed: requests, failed (with the first reasons), downloads, and the digests of what was
downloaded.
"""

from __future__ import annotations

import hashlib
import http
import http.client
import json
import sys
import threading
import time

TIMEOUT_S = 30.0
PAUSE_S = 0.02
PIECE = 1 << 20


class Load:
    """The clients, and what they have done so far."""

    def __init__(self, address: str, path: str) -> None:
        self._address, self._path = address, path
        self._lock, self._stop = threading.Lock(), threading.Event()
        self.requests = self.downloads = 0
        self.failed: list[str] = []
        self.digests: set[str] = set()

    def ask(self) -> None:
        connection = http.client.HTTPConnection(self._address, 80, timeout=TIMEOUT_S)
        connection.auto_open = 0  # it gets no second connection
        try:
            connection.connect()
            while not self._stop.is_set():
                connection.request("HEAD", self._path)
                response = connection.getresponse()
                response.read()
                self._done(response.status)
                time.sleep(PAUSE_S)
        except (OSError, http.client.HTTPException) as error:
            self._fail(error)

    def download(self, bytes_per_s: float) -> None:
        connection = http.client.HTTPConnection(self._address, 80, timeout=TIMEOUT_S)
        connection.auto_open = 0
        try:
            connection.connect()
            while not self._stop.is_set():
                connection.request("GET", self._path)
                response = connection.getresponse()
                digest = hashlib.sha256()
                while piece := response.read(PIECE):
                    digest.update(piece)
                    if not self._stop.is_set():
                        time.sleep(len(piece) / bytes_per_s)
                self.digests.add(digest.hexdigest())
                self.downloads += 1
        except (OSError, http.client.HTTPException) as error:
            self._fail(error)

    def end(self) -> None:
        self._stop.set()

    def _done(self, status: int) -> None:
        with self._lock:
            self.requests += 1
            if status != http.HTTPStatus.OK:
                self.failed.append(str(status))

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self.failed.append(repr(error))


def main() -> None:
    address, path, clients = sys.argv[1], sys.argv[2], int(sys.argv[3])
    load = Load(address, path)
    threads = [threading.Thread(target=load.ask) for _ in range(clients)]
    threads.append(threading.Thread(target=load.download, args=(40e6,)))
    for thread in threads:
        thread.start()
    print("running", flush=True)
    sys.stdin.readline()
    load.end()
    for thread in threads:
        thread.join()
    seen = {"requests": load.requests, "failed": len(load.failed), "reasons": load.failed[:3]}
    print(json.dumps({**seen, "downloads": load.downloads, "digests": sorted(load.digests)}))


if __name__ == "__main__":
    main()

"""A redis for tests of the redis workloads: it can be told to lie, to hang and to hang up."""

import contextlib
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any


class FakeRedis(socketserver.ThreadingTCPServer):
    """A server that speaks as much of redis as the workloads use.

    `on_incr` turns the true reply into what is sent; None has the connection closed.
    """

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, on_incr: Callable[[int], bytes | None]) -> None:
        super().__init__(("127.0.0.1", 0), FakeRedisHandler)
        self.on_incr = on_incr
        self.store: dict[bytes, Any] = {}

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class FakeRedisHandler(socketserver.StreamRequestHandler):
    server: FakeRedis

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while head := self.rfile.readline():
                words = head.split() if head[:1] != b"*" else self._words(int(head[1:]))
                reply = self._incr(words[1]) if words[0] == b"INCR" else _resp(self._run(*words))
                if reply is None:
                    return
                self.wfile.write(reply)

    def _words(self, count: int) -> list[bytes]:
        sizes = (int(self.rfile.readline()[1:]) for _ in range(count))
        return [self.rfile.read(size + 2)[:-2] for size in sizes]

    def _incr(self, key: bytes) -> bytes | None:
        value = int(self.server.store.get(key, b"0")) + 1
        self.server.store[key] = b"%d" % value
        return self.server.on_incr(value)

    def _run(self, verb: bytes, *words: bytes) -> Any:
        store = self.server.store
        if verb == b"SCAN":  # two pages with one key in both, as the real one may
            keys = list(store)
            half = len(keys) // 2
            return [b"7", keys[: half + 1]] if words[0] == b"0" else [b"0", keys[half:]]
        key = words[0]
        if verb == b"TYPE":
            return {"bytes": b"string", "dict": b"hash", "list": b"list"}[type(store[key]).__name__]
        if verb in (b"SET", b"RPUSH"):
            store[key] = words[1] if verb == b"SET" else list(words[1:])
        elif verb == b"HSET":
            store[key] = dict(zip(words[1::2], words[2::2], strict=True))
        elif verb == b"HGETALL":
            return [part for pair in reversed(store[key].items()) for part in pair]
        elif verb in (b"GET", b"LRANGE"):
            return store[key]
        return b"OK"


def _resp(value: Any) -> bytes:
    if isinstance(value, list):
        return b"*%d\r\n%s" % (len(value), b"".join(map(_resp, value)))
    return b"$%d\r\n%s\r\n" % (len(value), value)


@contextlib.contextmanager
def fake_redis(
    on_incr: Callable[[int], bytes | None] = lambda value: b":%d\r\n" % value,
) -> Iterator[FakeRedis]:
    with FakeRedis(on_incr) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

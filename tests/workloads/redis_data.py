"""Fill a redis with known data, take a digest of everything in it, or write to it all the time.

The data is the same for the same seed and size: about half of it is JSON documents and half is
bytes that do not compress, in strings, hashes and lists. The digest does not depend on the order of
SCAN or of hash fields, nor on redis's encodings. The program speaks RESP itself, with pipelining.
"""

import argparse
import fnmatch
import hashlib
import json
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice

Reply = int | bytes | None | list["Reply"]

CELL_BYTES = 1024  # one value, hash field or list element
CELLS_PER_COLLECTION = 8
POOL_BYTES = 4 << 20
BATCH_BYTES = 1 << 20
BATCH_KEYS = 512
LOAD_BATCH = 20


class RedisError(Exception):
    """An error reply, or a connection that ended early."""


class Redis:
    """A connection to redis, of no use after an error.

    Requests are sent a batch at a time, and then as many replies are read.
    """

    def __init__(self, host: str, port: int, *, timeout_s: float = 60) -> None:
        self._sock = socket.create_connection((host, port), timeout=timeout_s)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._sock.makefile("rb", buffering=1 << 18)

    def __enter__(self) -> "Redis":
        return self

    def __exit__(self, *_: object) -> None:
        self._replies.close()
        self._sock.close()

    def command(self, *words: bytes | str) -> Reply:
        return self.pipeline([words])[0]

    def pipeline(self, commands: Sequence[Sequence[bytes | str]]) -> list[Reply]:
        self._sock.sendall(b"".join(map(encode, commands)))
        return [self._read() for _ in commands]

    def _read(self) -> Reply:
        line = self._replies.readline()
        if not line.endswith(b"\r\n"):
            raise RedisError("the connection ended in the middle of a reply")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"-":
            raise RedisError(rest.decode("utf-8", "replace"))
        size = int(rest)
        if size < 0:
            return None
        if kind == b"*":
            return [self._read() for _ in range(size)]
        data: bytes = self._replies.read(size + 2)
        if len(data) != size + 2:
            raise RedisError("the connection ended in the middle of a value")
        return data[:-2]


def encode(words: Sequence[bytes | str]) -> bytes:
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word.encode() if isinstance(word, str) else word
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


class Cells:
    """A maker of values, which are cut from a seeded pool: that is faster than making them."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - test data
        self._bytes = rng.randbytes(POOL_BYTES + CELL_BYTES)
        words = [
            "container",
            "memory",
            "latency",
            "order",
            "customer",
            "region",
            "eu-north",
            "status",
            "pending",
            "ok",
        ]
        self._tails = []
        for _ in range(256):
            document = {
                "owner": f"user-{rng.randrange(10**6)}",
                "created": f"2025-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}T12:00:00Z",
                "tags": rng.choices(words, k=6),
                "price": rng.randrange(10**6) / 100,
                "notes": " ".join(rng.choices(words, k=rng.randrange(60, 140))),
            }
            self._tails.append(json.dumps(document).encode()[1:])

    def __call__(self, number: int) -> bytes:
        """Return the value of a number, which differs for each number.

        It is a JSON document for an odd number, and bytes that do not compress for an even one.
        """
        if number % 2:
            return b'{"id": %d, %s' % (number, self._tails[number * 40503 // 2 % len(self._tails)])
        start = number * 7919 % POOL_BYTES
        return number.to_bytes(8, "little") + self._bytes[start : start + CELL_BYTES - 8]


def commands_for(cells: Cells, prefix: str) -> Iterator[tuple[int, list[bytes | str]]]:
    """Yield commands that write keys, without an end, each with the size of its values in bytes.

    Of five keys three are strings, one is a hash and one a list.
    """
    number = index = 0
    while True:
        kind = index % 5
        count = 1 if kind < 3 else CELLS_PER_COLLECTION
        values = [cells(cell) for cell in range(number, number + count)]
        number += count
        size = sum(map(len, values))
        if kind < 3:
            yield size, ["SET", f"{prefix}string:{index}", values[0]]
        elif kind == 3:
            fields = [
                part for field, value in enumerate(values) for part in (b"field-%d" % field, value)
            ]
            yield size, ["HSET", f"{prefix}hash:{index}", *fields]
        else:
            yield size, ["RPUSH", f"{prefix}list:{index}", *values]
        index += 1


def fill(redis: Redis, mib: float, *, seed: int = 1, prefix: str = "data:") -> dict[str, object]:
    """Write so many MiB of values, for which redis needs a little more memory.

    Keys of an earlier fill must be gone.
    """
    started_s = time.monotonic()
    wanted_bytes = int(mib * (1 << 20))
    total_bytes = batch_bytes = keys = 0
    batch: list[list[bytes | str]] = []
    for size, command in commands_for(Cells(seed), prefix):
        if total_bytes >= wanted_bytes or batch_bytes >= BATCH_BYTES:
            redis.pipeline(batch)
            batch, batch_bytes = [], 0
        if total_bytes >= wanted_bytes:
            break
        batch.append(command)
        batch_bytes += size
        total_bytes += size
        keys += 1
    return {
        "keys": keys,
        "value_bytes": total_bytes,
        "seconds": round(time.monotonic() - started_s, 3),
    }


def scan_keys(redis: Redis, exclude: Sequence[str] = ()) -> list[bytes]:
    """Return all keys but those that match a glob of `exclude`, sorted.

    SCAN may return a key more than once.
    """
    keys: set[bytes] = set()
    cursor = b"0"
    while True:
        reply = redis.command("SCAN", cursor, "COUNT", "5000")
        if (
            not isinstance(reply, list)
            or not isinstance(reply[0], bytes)
            or not isinstance(reply[1], list)
        ):
            raise RedisError(f"unexpected reply to SCAN: {reply!r}")
        keys.update(key for key in reply[1] if isinstance(key, bytes))
        cursor = reply[0]
        if cursor == b"0":
            break
    return sorted(
        key
        for key in keys
        if not any(fnmatch.fnmatchcase(key.decode("latin-1"), glob) for glob in exclude)
    )


READ_COMMANDS: dict[bytes, tuple[str, tuple[str, ...]]] = {
    b"string": ("GET", ()),
    b"hash": ("HGETALL", ()),
    b"list": ("LRANGE", ("0", "-1")),
    b"set": ("SMEMBERS", ()),
    b"zset": ("ZRANGE", ("0", "-1", "WITHSCORES")),
}


def canonical(kind: bytes, reply: Reply) -> bytes:
    """Return a value as bytes: each element with its length before it.

    Elements are sorted where redis promises no order.
    """
    items = [
        item for item in (reply if isinstance(reply, list) else [reply]) if isinstance(item, bytes)
    ]
    if kind == b"hash":
        items = [
            part for pair in sorted(zip(items[::2], items[1::2], strict=True)) for part in pair
        ]
    elif kind == b"set":
        items.sort()
    return kind + b"".join(b" %d:%s" % (len(item), item) for item in items)


def digest(redis: Redis, exclude: Sequence[str] = ()) -> dict[str, object]:
    """Return a SHA-256 over all sorted keys, each with the SHA-256 of its value.

    Data must not change meanwhile.
    """
    total = hashlib.sha256()
    count = 0
    keys = iter(scan_keys(redis, exclude))
    while batch := list(islice(keys, BATCH_KEYS)):
        kinds = redis.pipeline([("TYPE", key) for key in batch])
        reads: list[list[bytes | str]] = []
        for key, kind in zip(batch, kinds, strict=True):
            if not isinstance(kind, bytes) or kind not in READ_COMMANDS:
                raise RedisError(f"cannot read key {key!r} of type {kind!r}")
            verb, rest = READ_COMMANDS[kind]
            reads.append([verb, key, *rest])
        for key, kind, reply in zip(batch, kinds, redis.pipeline(reads), strict=True):
            if reply is None or not isinstance(kind, bytes):
                raise RedisError(f"key {key!r} vanished")
            total.update(b"%d:%s" % (len(key), key))
            total.update(hashlib.sha256(canonical(kind, reply)).digest())
            count += 1
    return {"keys": count, "digest": total.hexdigest()}


def load(redis: Redis, per_second: float, *, keys: int, prefix: str = "load:") -> dict[str, object]:
    """SET keys at random at that rate, until SIGTERM.

    What is not done in time, as in a freeze, is left out.
    """
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
    cells, dice = Cells(1), random.Random(1)  # noqa: S311 - test data
    sets = 0
    started_s = due_s = time.monotonic()
    while not stopping:
        commands: list[list[bytes | str]] = [
            ["SET", f"{prefix}{dice.randrange(keys)}", cells(sets + n)] for n in range(LOAD_BATCH)
        ]
        redis.pipeline(commands)
        sets += LOAD_BATCH
        due_s = max(due_s + LOAD_BATCH / per_second, time.monotonic() - LOAD_BATCH / per_second)
        time.sleep(max(0.0, due_s - time.monotonic()))
    return {"sets": sets, "seconds": round(time.monotonic() - started_s, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description="fill a redis with known data, or take a digest of all its data"
    )
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    commands = parser.add_subparsers(dest="command", required=True)
    filling = commands.add_parser("fill")
    filling.add_argument("--mib", type=float, required=True, help="MiB of values")
    filling.add_argument("--seed", type=int, default=1)
    filling.add_argument("--prefix", default="data:")
    digesting = commands.add_parser("digest")
    digesting.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="glob of keys to leave out",
    )
    loading = commands.add_parser("load")
    loading.add_argument("--per-second", type=float, required=True)
    loading.add_argument("--keys", type=int, default=100_000)
    args = parser.parse_args()
    with Redis(args.host, args.port) as redis:
        if args.command == "fill":
            result = fill(redis, args.mib, seed=args.seed, prefix=args.prefix)
        elif args.command == "load":
            result = load(redis, args.per_second, keys=args.keys)
        else:
            result = digest(redis, args.exclude)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

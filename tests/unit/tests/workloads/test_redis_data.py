"""Tests of tests/workloads/redis_data.py: its digest sees every change of the data."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.unit.tests.workloads.running import LIMIT_S, WORKLOADS
from tests.workloads import redis_data
from tests.workloads.fake_redis import fake_redis


def test_data_digest_sees_every_change_and_no_order() -> None:
    with fake_redis() as server, redis_data.Redis("127.0.0.1", server.port) as redis:
        filled = redis_data.fill(redis, 0.5)
        whole = redis_data.digest(redis)
        assert whole["keys"] == filled["keys"]
        original = dict(server.store)
        server.store[b"client:counter"] = b"5"
        assert redis_data.digest(redis) != whole
        assert redis_data.digest(redis, ["client:*"]) == whole
        server.store = dict(reversed(original.items()))
        assert redis_data.digest(redis) == whole
        for kind, change in CHANGES.items():
            key = next(key for key in original if kind in key)
            server.store = {**original, key: change(original[key])}
            assert redis_data.digest(redis) != whole, kind
        server.store = dict(list(original.items())[1:])
        assert redis_data.digest(redis) != whole
        server.store = {}
        redis_data.fill(redis, 0.5)
        assert redis_data.digest(redis) == whole
        redis_data.fill(redis, 0.5, seed=2)
        assert redis_data.digest(redis) != whole


CHANGES: dict[bytes, Callable[[Any], Any]] = {
    b"string": lambda value: value[:-1],
    b"hash": lambda value: {**value, b"field-0": value[b"field-1"]},
    b"list": lambda value: value[::-1],
}


def test_the_command_fills_redis_and_digests_it() -> None:
    with fake_redis() as server:
        command = [
            sys.executable,
            "-B",
            str(WORKLOADS / "redis_data.py"),
            "127.0.0.1",
            str(server.port),
        ]
        filled = json.loads(
            subprocess.check_output([*command, "fill", "--mib", "1"], timeout=LIMIT_S)
        )
        assert filled["value_bytes"] >= 1 << 20
        result = json.loads(
            subprocess.check_output([*command, "digest", "--exclude", "x*"], timeout=LIMIT_S)
        )
        assert result["keys"] == filled["keys"]
        assert len(result["digest"]) == 64

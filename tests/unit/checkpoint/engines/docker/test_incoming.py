"""Tests of checkpoint/engines/docker/incoming.py: what the target's docker is given."""

from __future__ import annotations

from typing import Any

from checkpoint.engines.docker.incoming import endpoint_of, entries

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

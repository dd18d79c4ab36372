"""Tests of transport/destination.py: what people write for a host, and texts that are none."""

import pytest

from transport.destination import Destination


@pytest.mark.parametrize(
    ("text", "name", "user", "port"),
    [
        ("beta", "beta", None, None),
        ("beta.example.org", "beta.example.org", None, None),
        ("root@beta", "beta", "root", None),
        ("beta:2222", "beta", None, 2222),
        ("root@beta:2222", "beta", "root", 2222),
        ("10.0.0.2", "10.0.0.2", None, None),
        ("root@10.0.0.2:1", "10.0.0.2", "root", 1),
        ("beta:65535", "beta", None, 65535),
        ("[fd00::2]", "fd00::2", None, None),
        ("[fd00::2]:2222", "fd00::2", None, 2222),
        ("root@[fe80::1%eth0]:22", "fe80::1%eth0", "root", 22),
        ("fd00::2", "fd00::2", None, None),
        ("::1", "::1", None, None),
        ("corp\\joe@beta", "beta", "corp\\joe", None),
        ("b\u00fccher.example", "b\u00fccher.example", None, None),
        ("::ffff:10.0.0.2", "::ffff:10.0.0.2", None, None),
        ("ssh://beta", "beta", None, None),
        ("ssh://root@beta:2222", "beta", "root", 2222),
        ("ssh://root@[fd00::2]:2222/", "fd00::2", "root", 2222),
    ],
)
def test_a_host_is_parsed_and_printed_again(
    text: str, name: str, user: str | None, port: int | None
) -> None:
    found = Destination.parse(text)
    assert found == Destination(name=name, user=user, port=port)
    assert Destination.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "@beta",
        "root@",
        "root@@beta",
        "a@b@beta",
        "beta:",
        "beta:ssh",
        "beta:0",
        "beta:65536",
        "beta:99999",
        "beta:123456",
        "beta:-1",
        "two words",
        "beta\n",
        "-oProxyCommand=reboot",
        "[fd00::2",
        "fd00::2]",
        "[]",
        "http://beta",
        "beta/path",
        "ssh://",
        "root@-oProxyCommand=reboot",
        "ssh://-oProxyCommand=reboot",
        "-root@beta",
        "ssh://-lroot@beta",
        "beta\x1b[2J",
        "ro\x07ot@beta",
        "beta;reboot",
        "$(reboot)",
        "`reboot`",
        "a&b@beta",
        "beta:\u0662\u0662",
        "[:::]",
        "[1.2.3]",
        ":::",
        "1:2:3",
        "::f%ebh0]:\0\x002",
        "::1%eth0",
        "[::1%eth0;x]",
        "a..b",
        "x" * 64,
        "x." * 200,
        "\ud800",
    ],
)
def test_a_text_that_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|user|port|IPv6"):
        Destination.parse(text)

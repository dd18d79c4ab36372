"""The endpoint of a destination: its address, the user to log in as, and the keys of its host.

The settings are those of ssh(1), which prints them itself (`question`), with the user's Include,
Match and CanonicalizeHostname applied. On a host without ssh(1), ssh_config.py reads the files.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transport.destination import Destination

#: {keyword of ssh_config(5) in lower case: its values}. Only some keywords, such as IdentityFile,
#: may have several.
Settings = Mapping[str, Sequence[str]]

DEFAULT_PORT = 22
#: The defaults of ssh(1), for settings that do not come from ssh(1).
DEFAULTS: Settings = {
    "identityfile": ("~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519"),
    "userknownhostsfile": ("~/.ssh/known_hosts ~/.ssh/known_hosts2",),
    "globalknownhostsfile": ("/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2",),
    "identityagent": ("SSH_AUTH_SOCK",),
}
AGENT_VARIABLE = "SSH_AUTH_SOCK"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A destination with the settings of ssh_config(5) applied.

    `key_name` is the host's name in known_hosts; `certified_name` is the name that its certificate
    must be for. `algorithms` are the algorithms that a host key may have, `authority_algorithms`
    those that an authority may sign a certificate by; None is any. `agent` is the socket of the
    SSH agent that has keys to log in with, or None. `proxy` is a command for the user's shell whose
    standard streams lead to the host's sshd, or None.
    """

    destination: Destination
    address: str
    port: int
    user: str
    key_name: str
    certified_name: str
    known_hosts: tuple[Path, ...]
    revoked_keys: Path | None
    algorithms: tuple[str, ...] | None
    authority_algorithms: tuple[str, ...] | None
    key_files: tuple[Path, ...]
    identities_only: bool
    agent: Path | None
    proxy: str | None

    @classmethod
    def of(cls, destination: Destination, settings: Settings, home: Path | None = None) -> Endpoint:
        """Apply `settings`, from `parsed` or ssh_config.py, to a destination.

        Raises ValueError for a port that is no number.
        """
        found = _Found(destination, {**DEFAULTS, **settings}, home or Path.home())
        return cls(
            destination=destination,
            address=found.address,
            port=found.port,
            user=found.user,
            # As in ssh(1): the name after HostName, with the port unless it is the default one.
            key_name=found.alias or with_port(found.address, found.port),
            certified_name=found.alias or found.address,
            known_hosts=(*found.paths("userknownhostsfile"), *found.paths("globalknownhostsfile")),
            revoked_keys=next(iter(found.paths("revokedhostkeys")), None),
            algorithms=found.names("hostkeyalgorithms"),
            authority_algorithms=found.names("casignaturealgorithms"),
            key_files=tuple(
                found.path(name) for name in found.settings["identityfile"] if name != "none"
            ),
            identities_only=found.one("identitiesonly") == "yes",
            agent=found.agent(),
            proxy=found.proxy(),
        )

    def __str__(self) -> str:
        return f"{self.user}@{self.address}:{self.port}"


def question(destination: Destination) -> list[str]:
    """Return the command line that prints ssh(1)'s settings for a destination (ssh(1), -G)."""
    words = ["ssh", "-G"]
    if destination.port is not None:
        words += ["-p", str(destination.port)]
    if destination.user is not None:
        words += ["-l", destination.user]
    return [*words, "--", destination.name]


def parsed(answer: str) -> dict[str, list[str]]:
    """Return the settings in the output of `question`: a line for each value, its keyword first."""
    settings: dict[str, list[str]] = {}
    for line in answer.splitlines():
        key, _, value = line.partition(" ")
        settings.setdefault(key, []).append(value)
    return settings


def shell_command(proxy: str) -> list[str]:
    """Return the command line that starts an endpoint's `proxy` (ssh_config(5), ProxyCommand)."""
    return [os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {proxy}"]


def with_port(name: str, port: int) -> str:
    """Return a host as known_hosts lists it: with its port, unless that is the default one."""
    return name if port == DEFAULT_PORT else f"[{name}]:{port}"


class _Found:
    """The settings of one destination, each turned into the type that Endpoint has."""

    def __init__(self, destination: Destination, settings: Settings, home: Path) -> None:
        self.settings = settings
        self._home = home
        self.address = self.one("hostname") or destination.name
        self.port = int(self.one("port") or DEFAULT_PORT)
        self.user = self.one("user") or getpass.getuser()
        self.alias = self.one("hostkeyalias")
        self._tokens = self._all_tokens(destination)

    def one(self, key: str) -> str | None:
        """Return the first value of a keyword; None if there is none, or if it is `none`."""
        value = next(iter(self.settings.get(key, ())), "none")
        return None if value == "none" else value

    def names(self, key: str) -> tuple[str, ...] | None:
        """Return the names, separated by commas, in a keyword's value; None if there are none."""
        value = self.one(key)
        return tuple(value.split(",")) if value else None

    def paths(self, key: str) -> tuple[Path, ...]:
        """Return the files, separated by blanks, in a keyword's value."""
        return tuple(self.path(name) for name in (self.one(key) or "").split())

    def path(self, text: str) -> Path:
        """Return a file's path with `~`, variables and tokens replaced (ssh_config(5), TOKENS)."""
        if text == "~" or text.startswith("~/"):
            text = f"{self._home}{text[1:]}"
        return Path(self._filled(os.path.expandvars(os.path.expanduser(text))))

    def agent(self) -> Path | None:
        """Return the socket of IdentityAgent, or of the variable that it names; None without one.

        The variable is written with a dollar, except SSH_AUTH_SOCK.
        """
        text = self.one("identityagent") or ""
        variable = (
            AGENT_VARIABLE
            if text == AGENT_VARIABLE
            else text.removeprefix("$")
            if text[:1] == "$"
            else None
        )
        if variable is not None:
            text = os.environ.get(variable.strip("{}"), "")
        return self.path(text) if text else None

    def proxy(self) -> str | None:
        """Return ProxyCommand, or the command that ssh(1) makes of ProxyJump; None without both."""
        if command := self.one("proxycommand"):
            return self._filled(command)
        if hops := self.one("proxyjump"):
            *others, last = (hop.strip() for hop in hops.split(","))
            where = (
                f"[{self.address}]:{self.port}"
                if ":" in self.address
                else f"{self.address}:{self.port}"
            )
            words = ["ssh", *(["-J", ",".join(others)] if others else []), "-W", where]
            return shlex.join([*words, last if last.startswith("ssh://") else f"ssh://{last}"])
        return None

    def _filled(self, text: str) -> str:
        """Return `text` with its tokens replaced.

        Unknown tokens stay as they are: ssh(1) would have refused them.
        """

        def value(token: re.Match[str]) -> str:
            found = self._tokens.get(token[1])
            return found() if found is not None else token[0]

        return re.sub("%(.)", value, text)

    def _all_tokens(self, destination: Destination) -> dict[str, Callable[[], str]]:
        local, jump = socket.gethostname(), self.one("proxyjump") or ""
        together = f"{local}{self.address}{self.port}{self.user}{jump}"
        return {
            "%": lambda: "%",
            "C": lambda: hashlib.sha1(together.encode(), usedforsecurity=False).hexdigest(),
            "d": lambda: str(self._home),
            "h": lambda: self.address,
            "i": lambda: str(os.getuid()),
            "j": lambda: jump,
            "k": lambda: self.alias or destination.name,
            "L": lambda: local.partition(".")[0],
            "l": lambda: local,
            "n": lambda: destination.name,
            "p": lambda: str(self.port),
            "r": lambda: self.user,
            "u": getpass.getuser,
        }

"""Keys and certificates of hosts, made by ssh-keygen(1)."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

from transport.known_hosts import key_type


class Keys:
    """The keys and certificates that ssh-keygen(1) makes in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def key(self, name: str, kind: str = "ed25519") -> bytes:
        """Return the public half of the key of a name, which is made the first time."""
        path = self.directory / name
        if not path.exists():
            self.run("-t", kind, "-N", "", "-C", name, "-f", str(path))
        return self.public(path.with_suffix(".pub"))

    def certificate(self, name: str, authority: str, *options: str, kind: str = "ed25519") -> bytes:
        """Return a host's certificate by an authority."""
        self.key(name, kind)
        self.key(authority)
        principals = () if "-n" in options else ("-n", "beta,10.0.0.2")
        self.run(
            "-s",
            str(self.directory / authority),
            "-I",
            "id",
            "-h",
            *principals,
            *options,
            f"{name}.pub",
        )
        return self.public(self.directory / f"{name}-cert.pub")

    def public(self, path: Path) -> bytes:
        """Return the public key, or the certificate, in a file."""
        return base64.b64decode(path.read_text().split()[1])

    def run(self, *options: str) -> None:
        subprocess.run(
            ["ssh-keygen", "-q", *options], cwd=self.directory, check=True, capture_output=True
        )


def line(names: str, blob: bytes, marker: str = "") -> str:
    """Return a line of known_hosts."""
    return f"{marker} {names} {key_type(blob)} {base64.b64encode(blob).decode()} comment\n".lstrip()

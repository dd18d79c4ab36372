"""The installation of the shim, where a runtime finds it before the real CRIU."""

from __future__ import annotations

import os
import pkgutil
from pathlib import Path

from checkpoint.criu.shim import OWN_KERNDAT, RPC_SOCKET


def install_program(package: str, module: str, path: Path) -> Path:
    """Write a lone-file module of the tool as an executable; return `path`.

    The module is read from its package, which may be inside a zipapp.
    """
    source = pkgutil.get_data(package, f"{module}.py")
    assert source is not None
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(source)
    path.chmod(0o700)
    return path


def install_shim(directory: Path, kerndat: bytes = b"") -> dict[str, str]:
    """Install `directory`/bin/criu; return the environment that makes a runtime use it.

    Of that environment PATH is enough. The interposer must listen on `rpc_socket(directory)`.
    `kerndat`, unless it is empty, is the content that CRIU finds in place of its own kerndat file
    (parent.py).
    """
    program = install_program("checkpoint.criu", "shim", directory / "bin" / "criu")
    path = f"{program.parent}:{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    if kerndat:
        (directory / OWN_KERNDAT).write_bytes(kerndat)
    return {**os.environ, "PATH": path}


def rpc_socket(directory: Path) -> Path:
    """Return the path of the socket on which a shim in `directory` looks for its interposer."""
    return directory / RPC_SOCKET

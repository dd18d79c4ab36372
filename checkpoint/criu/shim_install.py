"""Put the shim where a runtime finds it first."""

from __future__ import annotations

import os
import pkgutil
from pathlib import Path

from checkpoint.criu.shim import OWN_KERNDAT, RPC_SOCKET


def install_program(package: str, module: str, path: Path) -> Path:
    """Write one of our lone-file modules as an executable; works from a zipapp too."""
    source = pkgutil.get_data(package, f"{module}.py")
    assert source is not None
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(source)
    path.chmod(0o700)
    return path


def install_shim(directory: Path, kerndat: bytes = b"") -> dict[str, str]:
    """Install `directory`/bin/criu; return the environment (of which PATH will do) that makes a runtime use it.

    The interposer is to listen on `rpc_socket(directory)`. `kerndat`, if any: parent.py.
    """
    program = install_program("checkpoint.criu", "shim", directory / "bin" / "criu")
    path = f"{program.parent}:{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    if kerndat:
        (directory / OWN_KERNDAT).write_bytes(kerndat)
    return {**os.environ, "PATH": path}


def rpc_socket(directory: Path) -> Path:
    """Where a shim installed in `directory` looks for its interposer."""
    return directory / RPC_SOCKET

"""The injector, which does something before its first ptrace call of a kind.

The environment variable ALTERED_INJECTOR is a JSON object: `request` is the name of the call's
request, and `action` the line of code to run before it, which knows the thread as `pid`.
"""

import importlib.util
import json
import os
import signal  # noqa: F401  (for the action)
import time
from pathlib import Path
from typing import Any

#: Python starts the injector with -I, so that no package of ours can be imported.
REAL = Path(__file__).resolve().parents[6] / "checkpoint/memory/tracking/inject.py"


def wait_traced(pid: int) -> None:
    """Wait until a thread is in a ptrace stop."""
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "t":
        time.sleep(0.001)


def altered(inject: Any, request_name: str, action: str) -> Any:
    """Return the injector's `ptrace` with the action before its first call with a request."""
    plain = inject.ptrace
    done: list[int] = []

    def ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> Any:
        if request == getattr(inject, request_name) and not done:
            done.append(request)
            exec(action, {**globals(), "pid": tid})  # noqa: S102
        return plain(request, tid, address, data)

    return ptrace


def load_injector() -> Any:
    spec = importlib.util.spec_from_file_location("inject", REAL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    told = json.loads(os.environ["ALTERED_INJECTOR"])
    injector = load_injector()
    injector.ptrace = altered(injector, told["request"], told["action"])
    injector.main()

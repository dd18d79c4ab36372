"""A context that spares a frozen container the pauses of the Python interpreter."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Iterator

from migrate.wire import message

#: The time after which a thread that computes lets another one run. By default that is 5 ms, and
#: CRIU waits for answers while memory is digested.
SWITCH_INTERVAL_S = 0.0002
USUAL_INTERVAL_S = sys.getswitchinterval()
#: Several migrations may run in one interpreter: the last to leave the context puts everything
#: back.
_lock, _inside = threading.Lock(), 0


@contextlib.contextmanager
def no_pauses() -> Iterator[None]:
    """Have the interpreter do now what it would do at a time of its own choice.

    The readers of messages are made (checkpoint/schema.py makes each when it is first used),
    threads are switched often, and garbage is collected now and not again until the end of the
    context.
    """
    global _inside  # noqa: PLW0603  (the interpreter is one for all threads)
    message.make_ready()
    with _lock:
        _inside += 1
    try:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.collect()
        gc.disable()
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                gc.enable()
                sys.setswitchinterval(USUAL_INTERVAL_S)

"""Spare a frozen container the pauses of the interpreter."""

from __future__ import annotations

import gc
import sys

from migrate import message

#: A thread that computes lets another one run after so long. By default that is 5 ms, and CRIU waits for answers
#: while memory is digested.
SWITCH_INTERVAL_S = 0.0002


def no_pauses() -> None:
    """Have the interpreter do now what it would do at a time of its own choice.

    The readers of messages are made (checkpoint/schema.py makes each when it is first used), threads are switched
    often, and garbage is collected, which is then left until `gc.enable()`.
    """
    message.make_ready()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.disable()

"""Repair of the alarms that a dump by CRIU loses: signals of timers that go off once.

CRIU saves the signals that wait for a process before it saves the process's timers
(criu/cr-dump.c, dump_one_task). A timer that goes off in between is saved neither as a signal nor
as armed. CRIU itself arms a periodic one again (criu/timer.c). One that goes off once, and is set
anew by the handler of its signal, would never go off again.

Format: CRIU images/{core,timer,siginfo}.proto.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable

from checkpoint.criu.images.format import rewritten, writable
from checkpoint.criu.rpc import Message, thread

#: The size of the first field of a siginfo_t (sigaction(2)): the number of the signal.
SIGNO_BYTES = 4
#: A POSIX timer that sends a signal to its process (sigevent(7)).
SIGEV_SIGNAL = 0


def with_lost_alarms(name: str, core_image: bytes, waiting: int) -> bytes:
    """Return the core image of a process, changed so that none of its alarms is lost.

    `waiting` is the mask of the signals that wait for the frozen process now. With the shortest
    time left, the restored timer goes off at once. If several timers that are not armed send the
    signal that waits, it is not known which one has sent it, and none is changed. Raises ImageError
    when the file is damaged.
    """
    return rewritten(name, core_image, lambda message: _with_lost_alarms(name, message, waiting))


def _with_lost_alarms(name: str, message: bytes, waiting: int) -> bytes:
    core = writable(name, thread(), message)
    queues = (core.tc.signals_s, core.thread_core.signals_p)
    lost = waiting & ~_mask(each.siginfo for queue in queues for each in queue.signals)
    numbers = [number for number in signal.valid_signals() if lost >> (number - 1) & 1]
    set_off = [number for number in numbers if _set_off(core.tc.timers, number)]
    return bytes(core.SerializeToString()) if set_off else message


def _set_off(timers: Message, number: int) -> bool:
    """Have the one timer that may have sent a signal go off again; return whether there is one."""
    posix = [
        timer
        for timer in timers.posix
        if (timer.si_signo, timer.it_sigev_notify) == (number, SIGEV_SIGNAL)
        and not (timer.vsec or timer.vnsec or timer.isec or timer.insec)
    ]
    real = timers.real
    if len(posix) == 1:
        posix[0].vnsec = 1
    elif number == signal.SIGALRM and not (
        posix or real.vsec or real.vusec or real.isec or real.iusec
    ):
        real.vusec = 1
    else:
        return False
    return True


def _mask(infos: Iterable[bytes]) -> int:
    mask = 0
    for info in infos:
        number = int.from_bytes(info[:SIGNO_BYTES], sys.byteorder)
        if number in signal.valid_signals():
            mask |= 1 << (number - 1)
    return mask

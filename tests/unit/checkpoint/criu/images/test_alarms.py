"""Tests of checkpoint/criu/images/alarms.py: an alarm that CRIU has lost goes off again."""

from __future__ import annotations

import signal
import struct
from typing import Any

import pytest
from pycriu.images import core_pb2

from checkpoint.criu.images.alarms import with_lost_alarms
from checkpoint.errors import ImageError

MAGICS = struct.pack("=II", 0x54564319, 0x55053847)
NAME = "core-7.img"
THREAD_ID = 4


def mask(*numbers: int) -> int:
    return sum(1 << (number - 1) for number in numbers)


def core(saved: tuple[int, ...] = (), *, real: tuple[int, int] = (0, 0)) -> Any:
    """Return a core_entry in which signals are saved. `real` is (seconds left, interval)."""
    entry: Any = core_pb2.core_entry(mtype=1)
    task = entry.tc
    task.task_state, task.exit_code, task.personality, task.flags, task.blk_sigset = 1, 0, 0, 0, 0
    task.comm = "x"
    for timer in (task.timers.real, task.timers.virt, task.timers.prof):
        timer.isec = timer.iusec = timer.vsec = timer.vusec = 0
    task.timers.real.vsec, task.timers.real.isec = real
    for number in saved:
        task.signals_s.signals.add(siginfo=struct.pack("=iii", number, 0, 0x80) + bytes(116))
    return entry


def with_posix(entry: Any, number: int, *, left_s: int = 0, notify: int = 0) -> Any:
    timers = entry.tc.timers
    timer = timers.posix.add(it_id=len(timers.posix), clock_id=1, si_signo=number, sival_ptr=0)
    timer.it_sigev_notify, timer.overrun = notify, 0
    timer.isec = timer.insec = timer.vnsec = 0
    timer.vsec = left_s
    return entry


def image(entry: Any) -> bytes:
    data: bytes = entry.SerializeToString()
    return MAGICS + struct.pack("=I", len(data)) + data


def repaired(entry: Any, waiting: int) -> Any:
    data = with_lost_alarms(NAME, image(entry), waiting)
    assert data[:8] == MAGICS
    (size,) = struct.unpack_from("=I", data, 8)
    assert len(data) == 12 + size
    return core_pb2.core_entry.FromString(data[12:])


def test_an_alarm_between_the_two_looks_goes_off_again() -> None:
    found = repaired(core(), mask(signal.SIGALRM, signal.SIGCHLD))
    expected = core()
    expected.tc.timers.real.vusec = 1
    assert found == expected


def test_a_timer_of_ones_own_goes_off_again() -> None:
    entry = with_posix(with_posix(core(), signal.SIGUSR1), signal.SIGUSR2, left_s=3)
    found = repaired(entry, mask(signal.SIGUSR1, signal.SIGUSR2))
    assert [timer.vnsec for timer in found.tc.timers.posix] == [1, 0]
    assert not found.tc.timers.real.vusec


def test_a_timer_of_ones_own_that_sends_sigalrm_is_the_one() -> None:
    found = repaired(with_posix(core(), signal.SIGALRM), mask(signal.SIGALRM))
    assert (found.tc.timers.posix[0].vnsec, found.tc.timers.real.vusec) == (1, 0)


TWO = with_posix(with_posix(core(), signal.SIGUSR1), signal.SIGUSR1)


@pytest.mark.parametrize(
    ("entry", "waiting"),
    [
        (core(), 0),
        (core(), mask(signal.SIGTERM, signal.SIGRTMIN + 3)),
        (core((signal.SIGALRM,)), mask(signal.SIGALRM)),
        (core(real=(5, 0)), mask(signal.SIGALRM)),
        (core(real=(0, 5)), mask(signal.SIGALRM)),
        (TWO, mask(signal.SIGUSR1)),
        (with_posix(core(), signal.SIGUSR1, notify=THREAD_ID), mask(signal.SIGUSR1)),
        (core((0, 99)), mask(signal.SIGTERM)),
    ],
    ids=[
        "nothing waits",
        "no timer sends it",
        "the signal is saved",
        "armed still",
        "periodic",
        "one of two timers",
        "to a thread",
        "no such signal",
    ],
)
def test_other_processes_are_the_same_to_the_byte(entry: Any, waiting: int) -> None:
    assert with_lost_alarms(NAME, image(entry), waiting) == image(entry)


@pytest.mark.parametrize("data", [image(core())[:-3], MAGICS + b"\x02\0\0\0\x08", MAGICS + b"\1"])
def test_a_cut_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="damaged"):
        with_lost_alarms(NAME, data, 1)


def test_a_damaged_image_is_refused() -> None:
    with pytest.raises(ImageError, match="damaged"):
        with_lost_alarms(NAME, MAGICS + b"\x02\0\0\0\x0a\xff", 1)
    with pytest.raises(ImageError, match="lacks"):
        with_lost_alarms(NAME, MAGICS + b"\0\0\0\0", 1)


def test_a_process_may_have_a_name_that_is_no_text() -> None:
    nameless, found = (
        data.replace(b"\x01x", b"\x01\xff")
        for data in (image(core()), image(repaired(core(), mask(signal.SIGALRM))))
    )
    assert b"\x01\xff" in nameless
    assert with_lost_alarms(NAME, nameless, mask(signal.SIGALRM)) == found

#!/usr/bin/python3 -IS
"""The injector: a program that runs userfaultfd(2) inside another process by ptrace.

The descriptor belongs to the traced process's memory, and the injector takes it over by
pidfd_getfd(2).

The injector is a program of its own on purpose. For about half a millisecond a thread of the traced
process is stopped with foreign registers. If its tracer were killed then, the traced process would
die, too. The injector is therefore a small child process that blocks signals, exempts itself from
the OOM killer, and does nothing else.

Usage: inject.py PID SOCKET_FD. The injector sends one message on the socket, which is JSON:
{"stopped_us"} with the descriptor (SCM_RIGHTS), or {"error"}.
x86_64 only. See ptrace(2), userfaultfd(2), rseq(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import signal
import socket
import struct
import sys
import time

PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_DETACH, PTRACE_SYSCALL = 12, 13, 17, 24
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_EVENT_STOP = 0x4206, 0x4207, 128
PTRACE_GETSIGMASK, PTRACE_SETSIGMASK, PTRACE_GET_RSEQ_CONFIGURATION = 0x420A, 0x420B, 0x420F
O_TRACESYSGOOD, O_SUSPEND_SECCOMP = 1, 1 << 21
WALL = 0x40000000
SYS_CLOSE, SYS_RESTART_SYSCALL, SYS_USERFAULTFD, SYS_PIDFD_GETFD = 3, 219, 323, 438
UFFD_USER_MODE_ONLY = 1
PR_SET_DUMPABLE = 4
M64 = (1 << 64) - 1
#: struct user_regs_struct (arch/x86/include/asm/user_64.h).
REGISTERS = struct.Struct("27Q")
NAMES = (
    *(
        "r15",
        "r14",
        "r13",
        "r12",
        "rbp",
        "rbx",
        "r11",
        "r10",
        "r9",
        "r8",
        "rax",
        "rcx",
        "rdx",
        "rsi",
        "rdi",
        "orig_rax",
    ),
    *("rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
USER_CS_64 = 0x33
SYSCALL_INSTRUCTION = b"\x0f\x05"
#: Results of system calls that the kernel is to restart (include/linux/errno.h). They never reach
#: user space, but a tracer sees them in rax.
ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = 512, 513, 514, 516
#: EINTR; and the numbers of epoll_wait, epoll_pwait and epoll_pwait2, which any stop ends with
#: EINTR (signal(7)) and which do no harm when they are called again.
EINTR, ASK_AGAIN = 4, (232, 281, 441)
STOP_TIMEOUT_S = 0.5
ATTEMPTS = 20

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.syscall.restype = ctypes.c_long


class InjectError(Exception):
    """The error of an injection that failed: no descriptor was made, the process is as it was."""


class NotHere(InjectError):
    """The error of a thread that was stopped where its registers must not be changed.

    Inside a restartable sequence (rseq(2)) another rip would abort the sequence without its abort
    handler. At the delivery of a signal only the kernel knows whether the system call that the
    signal has interrupted starts again. The injection can be tried again a moment later.
    """


def ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    """Call ptrace(2). Raises OSError."""
    result = int(libc.ptrace(request, tid, address, data))
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace {request:#x} of {tid}: {os.strerror(error)}")
    return result


def find_syscall(pid: int) -> int:
    """Return the address of a syscall instruction in a process, preferably in the vdso.

    Every process has a vdso. Raises InjectError if no instruction is found, and OSError.
    """
    # Read as bytes: the name of a mapped file may be no text, or two lines to text mode.
    with open(f"/proc/{pid}/maps", "rb") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        regions = [line.split(None, 5) for line in maps]
        regions.sort(key=lambda fields: fields[-1].rstrip(b"\n") != b"[vdso]")
        for fields in regions:
            if b"x" in fields[1] and not fields[-1].startswith(b"[vsyscall]"):
                start, end = (int(x, 16) for x in fields[0].split(b"-"))
                memory.seek(start)
                offset = memory.read(min(end - start, 1 << 20)).find(SYSCALL_INSTRUCTION)
                if offset >= 0:
                    return start + offset
    raise InjectError("no syscall instruction found in the process")


def has_seccomp(tid: int) -> bool:
    """Return whether a thread has a seccomp filter or strict mode (proc(5), Seccomp)."""
    # Read as bytes: the process's name is in the file and may be no text.
    with open(f"/proc/{tid}/status", "rb") as status:
        return any(line.startswith(b"Seccomp:") and line.split()[1] != b"0" for line in status)


class Stopped:
    """One thread, stopped by ptrace for the length of the block, and afterwards exactly as before.

    Entering raises InjectError, NotHere or OSError; the thread then runs on, at the latest when the
    injector exits. After the block `stopped_us` is how long the thread was stopped, in
    microseconds.
    """

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self.instruction = find_syscall(tid)
        self.options = O_TRACESYSGOOD | (O_SUSPEND_SECCOMP if has_seccomp(tid) else 0)

    def __enter__(self) -> Stopped:
        ptrace(PTRACE_SEIZE, self.tid, 0, self.options)
        self.since = time.perf_counter()
        ptrace(PTRACE_INTERRUPT, self.tid)
        status = self.wait_first_stop()
        if status >> 16 != PTRACE_EVENT_STOP:
            ptrace(PTRACE_DETACH, self.tid, 0, os.WSTOPSIG(status))
            raise NotHere("stopped at the delivery of a signal")
        self.saved = self.registers()
        self.mask = ctypes.c_uint64()
        ptrace(PTRACE_GETSIGMASK, self.tid, 8, ctypes.addressof(self.mask))
        try:
            self.check()
            # No signal may be delivered on a foreign instruction pointer. SIGKILL and SIGSTOP
            # cannot be blocked.
            full = ctypes.c_uint64(M64 & ~(1 << signal.SIGKILL - 1 | 1 << signal.SIGSTOP - 1))
            ptrace(PTRACE_SETSIGMASK, self.tid, 8, ctypes.addressof(full))
        except BaseException:
            ptrace(PTRACE_DETACH, self.tid)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.set_registers(self.resumable())
        ptrace(PTRACE_SETSIGMASK, self.tid, 8, ctypes.addressof(self.mask))
        ptrace(PTRACE_DETACH, self.tid)
        self.stopped_us = int((time.perf_counter() - self.since) * 1e6)

    def wait_first_stop(self) -> int:
        """Wait for the stop that was asked for, and return its wait status (waitpid(2)).

        Raises InjectError if the process ended, or if the thread did not stop within
        STOP_TIMEOUT_S, because it waits in the kernel or gets no processor time. Such a thread has
        its own registers, and the kernel detaches it when the injector exits.
        """
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < deadline:
            tid, status = os.waitpid(self.tid, WALL | os.WNOHANG)
            if tid:
                return self.stopped(status)
        raise InjectError("the thread did not stop; it waits in the kernel")

    def wait_stop(self) -> int:
        """Wait for the next ptrace stop of the thread, and return its wait status.

        The wait has no limit, because the thread has foreign registers, and the injector can give
        the thread its own back only in a stop. A thread that the kernel does not let run, such as
        one in a frozen cgroup, does no harm meanwhile. Raises InjectError if the process ended.
        """
        return self.stopped(os.waitpid(self.tid, WALL)[1])

    def stopped(self, status: int) -> int:
        if not os.WIFSTOPPED(status):
            raise InjectError("the process ended")
        return status

    def check(self) -> None:
        if self.saved["cs"] != USER_CS_64:
            raise InjectError("the process runs 32-bit code")
        area = ctypes.create_string_buffer(32)
        try:
            size = ptrace(PTRACE_GET_RSEQ_CONFIGURATION, self.tid, 24, ctypes.addressof(area))
        except OSError:
            return  # the kernel has no rseq
        pointer = struct.unpack_from("Q", area.raw)[0]
        if size > 0 and pointer:
            with open(f"/proc/{self.tid}/mem", "rb", 0) as memory:
                memory.seek(pointer + 8)  # struct rseq: cpu_id_start, cpu_id, rseq_cs
                if struct.unpack("Q", memory.read(8))[0]:
                    raise NotHere("stopped in a restartable sequence")

    def registers(self) -> dict[str, int]:
        buffer = ctypes.create_string_buffer(REGISTERS.size)
        ptrace(PTRACE_GETREGS, self.tid, 0, ctypes.addressof(buffer))
        return dict(zip(NAMES, REGISTERS.unpack(buffer.raw)))  # noqa: B905

    def set_registers(self, values: dict[str, int]) -> None:
        buffer = ctypes.create_string_buffer(
            REGISTERS.pack(*(values[name] for name in NAMES)), REGISTERS.size
        )
        ptrace(PTRACE_SETREGS, self.tid, 0, ctypes.addressof(buffer))

    def resumable(self) -> dict[str, int]:
        """Return the saved registers, changed so that an interrupted system call starts again.

        The kernel restarts a call by itself only on the way out of the stop that interrupted it.
        The injector has left that stop by running its own system calls in the thread.
        """
        values = dict(self.saved)
        interrupted = (M64 + 1 - values["rax"]) if values["orig_rax"] >> 63 == 0 else 0
        ask_again = interrupted == EINTR and values["orig_rax"] in ASK_AGAIN
        if ask_again or interrupted in (ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND):
            values["rax"] = values["orig_rax"]
            values["rip"] -= len(SYSCALL_INSTRUCTION)
        elif interrupted == ERESTART_RESTARTBLOCK:
            values["rax"] = SYS_RESTART_SYSCALL
            values["rip"] -= len(SYSCALL_INSTRUCTION)
        values["orig_rax"] = M64
        return values

    def call(self, number: int, *arguments: int) -> int:
        """Run one system call in the thread and return its result, or -errno on failure."""
        values = dict(self.saved, rax=number, orig_rax=M64, rip=self.instruction)
        values.update(zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments))  # noqa: B905
        self.set_registers(values)
        for _ in ("entry", "exit"):
            ptrace(PTRACE_SYSCALL, self.tid)
            while os.WSTOPSIG(status := self.wait_stop()) != signal.SIGTRAP | 0x80:
                self.go_on(status)
        result = self.registers()["rax"]
        return result - (M64 + 1) if result >> 63 else result

    def go_on(self, status: int) -> None:
        """Have the thread go on with its call from a stop that is not the call's.

        A SIGSTOP is delivered; the thread stays stopped by it when it is detached. Raises
        InjectError for another signal, which only a fault in the call itself can bring.
        """
        if status >> 16 == PTRACE_EVENT_STOP:
            ptrace(PTRACE_SYSCALL, self.tid)
        elif os.WSTOPSIG(status) == signal.SIGSTOP:
            ptrace(PTRACE_SYSCALL, self.tid, 0, signal.SIGSTOP)
        else:
            raise InjectError(f"the call in the process got signal {os.WSTOPSIG(status)}")


def userfaultfd_of(pid: int) -> tuple[int, int]:
    """Run userfaultfd(2) in a process and return (descriptor, microseconds its thread was stopped).

    Raises InjectError or OSError.
    """
    pidfd = os.pidfd_open(pid)
    with Stopped(pid) as thread:
        number = thread.call(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK | UFFD_USER_MODE_ONLY)
        if number < 0:
            raise InjectError(f"userfaultfd in the process: {os.strerror(-number)}")
        ours = libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
        error = ctypes.get_errno()
        thread.call(SYS_CLOSE, number)
        if ours < 0:
            raise InjectError(f"pidfd_getfd: {os.strerror(error)}")
    return ours, thread.stopped_us


def main() -> None:
    """Inject once, after some tries if need be, and send the result on the socket."""
    # What was read of the traced process must not get into a core file.
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()) - {signal.SIGCHLD})
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("-1000")
    pid, peer = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    if platform.machine() != "x86_64":
        peer.send(json.dumps({"error": f"not supported on {platform.machine()}"}).encode())
        return
    last: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            fd, stopped_us = userfaultfd_of(pid)
        except NotHere as error:
            last = error
            time.sleep(0.001)
        except (InjectError, OSError) as error:
            last = error
            break
        else:
            socket.send_fds(peer, [json.dumps({"stopped_us": stopped_us}).encode()], [fd])
            return
    peer.send(json.dumps({"error": str(last)}).encode())


if __name__ == "__main__":
    main()

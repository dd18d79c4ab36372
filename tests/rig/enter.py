"""Run a command inside a node: enter.py PID CGROUP... -- COMMAND...

This machine runs this as a program, by path, so it uses the standard library only. It enters the
node's cgroups, and then its namespaces: the other way round the command would be seen outside the
node's root cgroups. It passes signals on to the command, ends as the command ended, and takes the
command with it when it is killed. nsenter(1) does the last two only.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

#: mnt is the last, because /proc is this machine's until then.
NAMESPACES = ("cgroup", "ipc", "uts", "net", "pid", "mnt")
PR_SET_PDEATHSIG = 1
#: A greater si_code than this is the kernel's. A terminal has then sent the signal, and the command
#: has got it, too.
SENT_BY_A_PROCESS = 0
FORWARDED = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
    "TERM": os.environ.get("TERM", "dumb"),
}

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raise the OSError of a call to libc that failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def enter(pid: str, cgroups: list[str]) -> None:
    """Enter the cgroups, and the namespaces of the process with that PID."""
    for cgroup in cgroups:
        (Path(cgroup) / "cgroup.procs").write_text("0")
    descriptors = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in NAMESPACES]
    for name, descriptor in zip(NAMESPACES, descriptors, strict=True):
        check(libc.setns(descriptor, 0), f"setns {name} of {pid}")
        os.close(descriptor)
    os.chdir("/")


def become(command: list[str]) -> None:
    """Become the command, with default signals; the child calls this."""
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, ENVIRONMENT)  # noqa: S606
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def wait(child: int) -> int:
    """Pass signals on until the child ends, and return its wait status."""
    while True:
        event = signal.sigwaitinfo({signal.SIGCHLD, *FORWARDED})
        if event.si_signo != signal.SIGCHLD:
            if event.si_code <= SENT_BY_A_PROCESS:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, event.si_signo)
            continue
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid == child:
            return status


def end_as(status: int) -> None:
    """End as a child ended that has this wait status: by its exit code, or by its signal."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


def main() -> None:
    """Enter the node, and run the command."""
    separator = sys.argv.index("--")
    pid, *cgroups = sys.argv[1:separator]
    command = sys.argv[separator + 1 :]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *FORWARDED})
    try:
        enter(pid, cgroups)
    except OSError as error:
        print(f"rig: cannot enter the node: {error}", file=sys.stderr)
        sys.exit(125)
    child = os.fork()
    if child == 0:
        become(command)
    end_as(wait(child))


if __name__ == "__main__":
    main()

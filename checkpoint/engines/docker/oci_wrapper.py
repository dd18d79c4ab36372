#!/usr/bin/python3 -IS
"""The OCI runtime that docker knows as `migrate`: runc, except for containers that migrate in.

This is a lone program, installed as one file, so it imports the standard library only. While a
container migrates to this host, an agent listens on a socket named by the container's id
(incoming.py). For such a container, `create` leaves a small process behind. docker takes the
process for the container's init, and furnishes its network namespace. Then `start` has the process
restore the container into that namespace. From then on the process stands for the container: it
passes on signals, and ends with the exit status of the container's init. For all other containers
and commands this program becomes runc.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import stat
import sys
from typing import Any

DIRECTORY = "/run/migrate/docker"
CGROUPS = "/sys/fs/cgroup"
#: Constants of sched.h, linux/prctl.h and sys/mount.h.
CLONE_NEWNET, PR_SET_CHILD_SUBREAPER, MNT_DETACH = 0x40000000, 36, 2
#: runc's global options that take a value.
WITH_VALUE = ("--root", "--log", "--log-format", "--rootless", "--criu")
MAX_MESSAGE = 1 << 17

libc = ctypes.CDLL(None, use_errno=True)


def command_of(words: list[str]) -> str:
    """Return the command among runc's arguments, or "" if there is none."""
    rest = iter(words)
    for word in rest:
        if word in WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return ""


def option(words: list[str], name: str) -> str:
    """Return the value of an option among runc's arguments; "" if the option is not there.

    The value is the next argument, or follows a "=" in the same one.
    """
    for index, word in enumerate(words):
        if word == name:
            return words[index + 1] if index + 1 < len(words) else ""
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


def socket_of(container_id: str) -> str:
    """Return the path of the socket of the agent that brings a container; "" if there is none."""
    path = os.path.join(DIRECTORY, container_id)
    return path if container_id and "/" not in container_id and stat.S_ISSOCK(mode_of(path)) else ""


def mode_of(path: str) -> int:
    """Return the st_mode of a file; 0 if there is no file, or the path is not valid."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def ask(path: str, question: dict[str, str]) -> socket.socket:
    """Connect to the agent's socket at `path`, send the question, and return the connection."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.connect(path)
    peer.send(json.dumps(question).encode())
    return peer


def create(words: list[str], path: str) -> None:
    """Leave a process behind that docker takes for the container's init.

    `words` are runc's arguments, `path` is the agent's socket. Returns once the process waits for
    its restore command and its number is in the --pid-file.
    """
    bundle = option(words, "--bundle") or option(words, "-b") or os.getcwd()
    with open(os.path.join(bundle, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        await_start(words, bundle, config, path, told)
    os.close(told)
    if os.read(ready, 1) != b"1":  # short result: one byte
        sys.exit("migrate: the container's first process could not be made")
    with open(option(words, "--pid-file"), "w", encoding="ascii") as file:
        file.write(str(child))


def await_start(
    words: list[str], bundle: str, config: dict[str, Any], path: str, told: int
) -> None:
    """Wait for the restore command, as the process that `create` leaves behind, and run it.

    The process joins the container's cgroups, and a new network namespace if the spec (`config`)
    asks for one. As a subreaper (prctl(2)) it becomes the parent of the restored init. The process
    writes b"1" to `told` when it waits. Its connection to the agent stays open until the process
    ends: so the agent sees an end that comes too early. This function does not return: after the
    command comes `stand_for`, or after a failure an exit with status 1.
    """
    os.setsid()
    home, network = cgroups_of("self"), os.open("/proc/self/ns/net", os.O_RDONLY)
    linux = config["linux"]
    enter({controllers: linux.get("cgroupsPath", "") for controllers in home}, make=True)
    if any(
        namespace["type"] == "network" and not namespace.get("path")
        for namespace in linux["namespaces"]
    ):
        check(libc.unshare(CLONE_NEWNET))
    check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    agent = ask(path, {"command": "create", "root": option(words, "--root"), "bundle": bundle})
    os.write(told, b"1")  # short result: one byte
    os.close(told)
    order = agent.recv(MAX_MESSAGE)
    if not order:
        os._exit(1)
    what = json.loads(order)
    failed = enter(home, make=False)  # runc refuses a cgroup that has a process in it
    runc = os.fork()
    if runc == 0:
        check(libc.setns(network, CLONE_NEWNET))
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execvpe(what["argv"][0], what["argv"], what["env"])  # noqa: S606
    if os.waitpid(runc, 0)[1] != 0:
        if failed:
            with contextlib.suppress(OSError):
                agent.send(f"a process could not leave its cgroup for {failed}".encode())
        os._exit(1)
    with open(what["pid_file"], encoding="ascii") as file:
        stand_for(int(file.read()))


def stand_for(init: int) -> None:
    """Pass the signals sent to this process on to `init`, and exit when `init` does.

    The exit status is that of `init`, or 128 plus the number of the signal that killed `init`. The
    standard streams of this process stay open until then: the agent writes to them what docker on
    the source logged last.
    """
    while True:
        number = signal.sigwait(signal.valid_signals())
        if number != signal.SIGCHLD:
            with contextlib.suppress(ProcessLookupError):
                os.kill(init, number)
            continue
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == init:
                    status = os.waitstatus_to_exitcode(ended[1])
                    os._exit(status if status >= 0 else 128 - status)


def check(result: int) -> None:
    """End this process if a system call has failed."""
    if result != 0:
        os._exit(1)


def cgroups_of(pid: str) -> dict[str, str]:
    """Return {controllers: path} of a process, as in /proc/PID/cgroup (cgroups(7))."""
    with open(f"/proc/{pid}/cgroup", "rb") as file:
        lines = os.fsdecode(file.read()).split("\n")
    return {
        controllers: path for _, controllers, path in (line.split(":", 2) for line in lines if line)
    }


def enter(paths: dict[str, str], *, make: bool) -> str:
    """Move this process into the cgroups `paths`, which are as `cgroups_of` returns them.

    With `make`, cgroups that do not exist are made. Returns the first failure, for people, or "";
    the other cgroups are entered all the same. If this process cannot join the container's cgroup,
    docker's statistics lack its figures, and nothing else fails.
    """
    failed = ""
    for controllers, path in paths.items():
        name = controllers.removeprefix("name=")
        mount = (
            os.path.join(CGROUPS, name)
            if name
            else CGROUPS
            if os.path.exists(f"{CGROUPS}/cgroup.procs")
            else ""
        )
        if not mount or not path.startswith("/"):
            continue
        directory = mount + path
        try:
            if make and not os.path.isdir(directory):
                os.makedirs(directory)
            for file in ("cpuset.cpus", "cpuset.mems"):
                inherit(directory, file)
            with open(os.path.join(directory, "cgroup.procs"), "w", encoding="ascii") as procs:
                procs.write("0")
        except OSError as error:
            failed = failed or f"{directory}: {error.strerror}"
    return failed


def inherit(directory: str, file: str) -> None:
    """Copy `file` of the parent cgroup to that of `directory`, if the latter is empty.

    A new cpuset of cgroups v1 is empty, and accepts no process then (cpuset(7)).
    """
    own, parents = os.path.join(directory, file), os.path.join(os.path.dirname(directory), file)
    with contextlib.suppress(OSError), open(own, encoding="ascii") as now:
        if not now.read().strip():
            inherit(os.path.dirname(directory), file)
            with (
                open(parents, encoding="ascii") as given,
                open(own, "w", encoding="ascii") as taken,
            ):
                taken.write(given.read())


def start(words: list[str], path: str) -> None:
    """Have the agent restore the container, and return when the container runs.

    If it does not run, write the reason to runc's --log and to standard error, and exit.
    """
    with ask(path, {"command": "start"}) as agent:
        answer = agent.recv(MAX_MESSAGE)
    failure = json.loads(answer)["failure"] if answer else "the move that was to bring it has ended"
    if failure:
        if log := option(words, "--log"):
            with open(log, "a", encoding="utf-8") as file:
                file.write(json.dumps({"level": "error", "msg": failure}) + "\n")
        sys.exit(f"migrate: {failure}")


def keep_files(words: list[str]) -> None:
    """Unmount the container's root that a killed restore has left in runc's state directory.

    `runc delete --force` removes that directory with all its content (runc's delete.go), which
    would be the container's files.
    """
    root = os.path.join(option(words, "--root"), words[-1], "criu-root")
    libc.umount2(os.fsencode(root), MNT_DETACH)  # usually nothing is mounted there


def main() -> None:
    """Do what docker asks of a runtime: `create` and `start` with the socket's help, else runc."""
    words = sys.argv[1:]
    command = command_of(words)
    path = socket_of(words[-1] if words else "")
    if command == "create" and path:
        create(words, path)
    elif command == "start" and path:
        # If this program ended, docker would kill the container, which may run already.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        start(words, path)
    else:
        if command == "delete":
            keep_files(words)
        os.execvp("runc", ["runc", *words])  # noqa: S606


if __name__ == "__main__":
    main()

"""A table of CRIU's log lines, with their meaning and cure for people who do not know CRIU.

The log lines are those of CRIU 4.2.1 (criu/*.c, pr_err). CRIU's own advice names options of its
command line, which cannot be given to this tool; the advice is removed from lines that are quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """An error of CRIU's in plain words: `words` name the obstacle, `cure` how to remove it."""

    words: str
    cure: str


#: CRIU's advice to people who call it by hand: the first matches a line of advice, the second
#: advice at the end of a line.
ADVICE_LINE = re.compile(r"can be ignored with the")
ADVICE = re.compile(r"[.,]?\s*\b(?:Consider using|Try)\b.*--.*", re.IGNORECASE)
AGAIN = "try again: it is a matter of the moment"
#: (pattern of a log line, its meaning, its cure); \1 is the pattern's first group.
KNOWN: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern), words, cure)
    for pattern, words, cure in (
        # proc_parse.c
        (
            r"Unknown shit \d+ \(anon_inode:\[io_uring\]\)",
            "a process uses io_uring, which CRIU cannot dump",
            "switch io_uring off in that program, or forbid it to the container by seccomp",
        ),
        (
            r"Unknown shit \d+ \((.+)\)",
            r"a process has \1 mapped, which CRIU cannot dump",
            "stop using that in the container",
        ),
        # sk-inet.c, sk-unix.c
        (r"In-flight connection \(l\)", "a TCP connection was just being accepted", AGAIN),
        (
            r"In-flight connection on non-listening",
            "a connection of a unix socket was just being accepted",
            AGAIN,
        ),
        (
            r"External socket is used",
            "a process has a unix socket connected to something outside the container",
            "have that program close it (it may be /dev/log, D-Bus or the engine's own socket)",
        ),
        (
            r"Unix socket \d+ with unreachable peer",
            "a process has a unix socket whose other end is outside the container",
            "have that program close it",
        ),
        # files-reg.c
        (
            r"Can't dump ghost file (.+) of (\d+) size",
            r"the deleted file \1 of \2 bytes is still open, which is more than CRIU takes along",
            "have the program that holds it open close it",
        ),
        (
            r"Can't lookup mount=-?\d+ for fd=(-?\d+) path=(.+)",
            r"descriptor \1 of a process is open on \2,"
            r" on a mount that the container does not have",
            "have that program close it",
        ),
        (
            r"File (.+) has bad size (\d+) \(expect (\d+)\)",
            r"file \1 has \2 bytes on the target and \3 on the source",
            "make it the same file on both hosts",
        ),
        # namespaces.c, seize.c, fsnotify.c
        (
            r"Can't dump nested (\w+) namespace for (\d+)",
            r"process \2 has a \1 namespace of its own inside the container",
            "end it before the move: containers and sandboxes inside a container cannot come along",
        ),
        (
            r"Zombies with threads|Zombie thread",
            "a process ended while threads of it still run",
            AGAIN,
        ),
        (
            r"Individually stopped threads",
            "single threads of a process are stopped",
            "let them run on, or stop all",
        ),
        (
            r"Can't dump that handle",
            "a process watches a file by inotify or fanotify whose path CRIU cannot find",
            "have that program end its watches",
        ),
        # mount.c
        (
            r"Mount \d+:(\S+) is autodetected external mount|Mount \d+ (\S+) \(master_id",
            r"mount \1\2 came into the container from outside after its start",
            "unmount it before the move",
        ),
    )
)


def explained(log: Iterable[str]) -> Explanation | None:
    """Return the explanation of the first line of a CRIU log that KNOWN has one for, or None."""
    for line in log:
        for pattern, words, cure in KNOWN:
            if found := pattern.search(line):
                return Explanation(words=found.expand(words), cure=cure)
    return None


def quotable(log: Iterable[str]) -> list[str]:
    """Return the lines of a CRIU log without CRIU's advice on its own options."""
    return [ADVICE.sub("", line) for line in log if not ADVICE_LINE.search(line)]

"""Rows of faults on a host: in its engine, its CRIU and its runtime, and in what the host is."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from checkpoint.errors import CommandFailed, ContainerNotFound, ContainerNotRunning, ImageError
from tests.unit.story import faults
from tests.unit.story.channel import Wire
from tests.unit.story.engine import World
from tests.unit.story.faults import Both, Fault, once
from tests.unit.story.model import MOVED, refused, rolled_back, so_far
from tests.unit.story.processes import state_of, until
from tests.unit.story.row import IMPATIENT, NOWHERE, TARGET, Row
from tests.unit.story.rows_between import ANSWERS
from tests.unit.story.stage import PATIENT
from transport.errors import AuthenticationRefused, HostKeyChanged, HostKeyUnknown, Unreachable

# --- the two engines -----------------------------------------------------------------------------

ERRORS: dict[str, Callable[[], Exception]] = {
    "a command fails": lambda: CommandFailed(["engine", "does"], 1, "no"),
    "no space": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "a defect": lambda: KeyError("a defect"),
}


KINDS = {"a command fails": "CommandFailed", "no space": "NoSpace", "a defect": "KeyError"}


def engine(point: str, error: Callable[[], Exception]) -> Callable[[World], None]:
    def arrange(world: World) -> None:
        def fail() -> None:
            raise error()

        world.faults[point] = fail

    return arrange


def engines() -> Iterator[Row]:
    """Yield a row for each step of an engine, and each kind of failure."""
    before = [
        ("source", "pack"),
        ("source", "suspend restart policy"),
        ("source", "checkpoint"),
        ("source", "pause monitor"),
    ]
    on_target = [("target", "prepare"), ("target", "start restore")]
    for what, error in ERRORS.items():
        for place in [*before, *on_target]:
            yield Row(
                name=f"{place[0]}'s {place[1]}: {what}",
                world=engine(" ".join(place), error),
                expected=rolled_back(place),
                cause=KINDS[what],
            )
        for name in ("arrival", "objections"):
            yield Row(
                name=f"target's {name}: {what}",
                world=engine(f"target {name}", error),
                expected=refused(("ask", "Examine")),
                cause=KINDS[what],
            )
        left = replace(
            so_far(("source", "remove migrated")), code=51, error_kind="LeftBehind", running=TARGET
        )
        yield Row(
            name=f"source's remove migrated: {what}",
            world=engine("source remove migrated", error),
            expected=left,
            cause=KINDS[what],
        )


def interrupted_engines() -> Iterator[Row]:
    for place in [
        ("source", "pack"),
        ("source", "suspend restart policy"),
        ("source", "checkpoint"),
    ]:

        def arrange(world: World, point: str = " ".join(place)) -> None:
            world.faults[point] = lambda: signal.raise_signal(signal.SIGTERM)

        yield Row(
            name=f"SIGTERM before source's {place[1]}",
            world=arrange,
            expected=rolled_back(place, code=143, kind="Interrupted"),
        )
    for name in ("pause monitor", "remove migrated"):

        def arrange_late(world: World, name: str = name) -> None:
            world.faults[f"source {name}"] = lambda: signal.raise_signal(signal.SIGTERM)

        yield Row(name=f"SIGTERM before source's {name}", world=arrange_late, expected=MOVED)


# --- CRIU and the runtimes -----------------------------------------------------------------------


def process(host: str, at: str, do: str, *, once: bool = False) -> Callable[[World], None]:
    def arrange(world: World) -> None:
        world.process_faults[host] = {"at": at, "do": do, "seconds": 0.05, "once": once}

    return arrange


DEEDS = ("fail", "die", "stall", "late")


def dumps() -> Iterator[Row]:
    """Yield rows for CRIU and the runtime on the source, at each point of a dump."""
    for at in ("runtime start", "pre-dump", "network-lock", "pages", "post-dump"):
        for do in DEEDS:
            place = ("source", "frozen")
            if at == "runtime start":
                place = ("state", "armed")
            elif at != "pre-dump":
                place = ("state", "frozen")
            expected = rolled_back(place)
            if do in ("die", "stall"):  # nobody writes down that the kernel thaws
                expected = replace(
                    expected, source=tuple(name for name in expected.source if name != "thawed")
                )
            yield Row(
                name=f"source's CRIU at {at}: {do}",
                world=process("source", at, do),
                expected=MOVED if do == "late" else expected,
                limits=PATIENT if do == "late" else IMPATIENT,
            )


def restores() -> Iterator[Row]:
    """Yield rows for CRIU and the runtime on the target, before GO and after it."""
    for do in DEEDS:
        for at in ("runtime start", "pre-restore", "post-restore"):
            place = ("ask", "Arm") if at == "runtime start" else ("ask", "Restore")
            obeyed = ("start restore",) if at == "runtime start" else ()
            if at == "post-restore":
                obeyed = ("restored",)
            expected = rolled_back(place, obeyed)
            if do != "fail":
                kept = tuple(name for name in expected.target if name != "killed what was restored")
                expected = replace(expected, target=kept)
            if at == "runtime start":  # this migration has made no container yet
                expected = replace(
                    expected, target=tuple(name for name in expected.target if name != "delete")
                )
            yield Row(
                name=f"target's CRIU at {at}: {do}",
                world=process("target", at, do),
                expected=MOVED if do == "late" else expected,
                limits=PATIENT if do == "late" else IMPATIENT,
            )
        if do != "late":
            yield from lost(do)
        for at in ("pre-resume", "resume", "post-resume", "runtime end"):
            obeyed = ("resumed",) if at in ("post-resume", "runtime end") else ()
            if do == "fail" and not obeyed:
                obeyed = ("killed what was restored",)
            expected = so_far(("ask", "Go"), obeyed)
            running = TARGET if "resumed" in obeyed else NOWHERE
            expected = replace(expected, code=63, error_kind="ResumeFailed", running=running)
            yield Row(
                name=f"target's CRIU at {at}: {do}",
                world=process("target", at, do),
                expected=MOVED if do == "late" else expected,
                limits=PATIENT if do == "late" else IMPATIENT,
                hangs=do == "stall",
            )


def lost(do: str) -> Iterator[Row]:
    """Yield rows for a restore that is lost after GO before it ran: once, and always."""
    killed = ("killed what was restored",) if do == "fail" else ()
    first = ("start restore", "restored", *killed, "delete")
    where = MOVED.target.index("start restore")
    again = (*MOVED.target[:where], *first, *MOVED.target[where:])
    always = replace(
        so_far(("ask", "Go"), ()),
        target=(*MOVED.target[:where], *first, *first, *first[:-1]),
        code=60,
        error_kind="Undecided",
        held=True,
        running=NOWHERE,
    )
    expected = {"once": replace(MOVED, target=again), "always": always}
    for often, ending in expected.items():
        yield Row(
            name=f"target's CRIU at network-unlock: {do} {often}",
            world=process("target", "network-unlock", do, once=often == "once"),
            expected=ending,
            limits=IMPATIENT,
            hangs=do == "stall",
            later=("--abort",) if ending is always else (),
        )


# --- connections, containers, hosts, and two faults at once ---------------------------------


def connections() -> Iterator[Row]:
    kinds: dict[type[Exception], tuple[int, str]] = {
        Unreachable: (20, "TargetUnreachable"),
        AuthenticationRefused: (21, "AuthenticationFailed"),
        HostKeyUnknown: (22, "UnknownHostKey"),
        HostKeyChanged: (23, "ChangedHostKey"),
    }
    for kind, (code, told) in kinds.items():
        yield Row(
            name=f"connect: {kind.__name__}",
            world=engine("source connect", lambda kind=kind: kind("made up")),  # type: ignore[misc]
            expected=refused(("ask", "Hello"), code, told),
        )
    found: dict[type[Exception], tuple[int, str]] = {
        ContainerNotFound: (10, "NoSuchContainer"),
        ContainerNotRunning: (11, "NotRunning"),
        ImageError: (49, "Refused"),
    }
    for kind, (code, told) in found.items():
        yield Row(
            name=f"inspect: {kind.__name__}",
            world=engine("source inspect", lambda kind=kind: kind("made up")),  # type: ignore[misc]
            expected=refused(("ask", "Hello"), code, told),
        )
    yield Row(
        name="pre-copy is asked for where it cannot work",
        options=("--mode", "pre-copy"),
        expected=refused(("ask", "CheckPaths"), 14, "CannotPreCopy"),
    )


def hosts() -> Iterator[Row]:
    """Yield rows for facts of the target that refuse a migration."""
    facts: list[tuple[str, object, int, str]] = [
        ("uid", 1000, 30, "NotRoot"),
        ("criu_version", None, 31, "MissingOnHost"),
        ("pycriu_error", "no pycriu", 31, "MissingOnHost"),
        ("engine_version", None, 31, "MissingOnHost"),
        ("rsync", False, 31, "MissingOnHost"),
        ("iproute2", False, 31, "MissingOnHost"),
        ("criu_version", 31400, 32, "CriuTooOld"),
        ("machine", "riscv64", 34, "MachineMismatch"),
        ("container_exists", True, 40, "NameTaken"),
        ("available_bytes", 1 << 20, 42, "NotEnoughMemory"),
    ]
    for name, value, code, kind in facts:

        def change(fields: dict[str, Any], name: str = name, value: object = value) -> None:
            fields["facts"][name] = value

        yield Row(
            name=f"the target's {name} is {value}",
            wire=once("answer", "Hello", faults.with_fields(change)),
            expected=refused(("ask", "CheckPaths"), code, kind),
        )


def doubles() -> Iterator[Row]:
    """Yield rows where another fault comes in the roll-back from the first one."""
    arming, restoring = ("ask", "Arm"), ("ask", "Restore")
    for what, (where, act, _) in {
        **ANSWERS,
        "the answer never comes": ("answer", faults.dropped, True),
    }.items():
        yield Row(
            name=f"Arm: the target fails; Abort: {what}",
            wire=lambda _, where=where, act=act: Both(  # type: ignore[misc]
                Fault("answer", "Arm", faults.failed), Fault(where, "Abort", act)
            ),
            expected=rolled_back(arming, ("start restore",)),
            limits=replace(PATIENT, abort_s=0.2),
        )
    yield Row(
        name="Restore: the target fails; Abort: the question is lost",
        wire=lambda _: Both(
            Fault("answer", "Restore", faults.failed), Fault("request", "Abort", faults.lost)
        ),
        expected=rolled_back(restoring, ("restored",)),
    )
    for what, error in ERRORS.items():
        for host, undoing in (
            ("source", "no longer held back"),
            ("target", "delete"),
            ("target", "unprepare"),
        ):
            expected = rolled_back(arming, ("start restore",))
            place = arming
            if host == "source":
                place = ("tell", "Freezing")
                expected = rolled_back(place)
            source = tuple(name for name in expected.source if name != undoing)
            target = tuple(name for name in expected.target if name != undoing)

            def arrange(world: World, point: str = f"{host} {undoing}", error: Any = error) -> None:
                engine(point, error)(world)

            yield Row(
                name=f"{place[1]}: the link is lost; {host}'s {undoing}: {what}",
                wire=once("answer" if place[0] == "ask" else "request", place[1], faults.lost),
                world=arrange,
                expected=replace(expected, source=source, target=target),
            )


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: state_of(pid) in ("Z", "X", ""), "a process to die")


def ends() -> Iterator[Row]:
    """Yield rows for processes that die, or do not, without the coordinator's doing."""
    restore = ("ask", "Restore")

    def kill(pid: Callable[[World], int]) -> Callable[[World], Wire]:
        return lambda world: Fault("request", "Restore", faults.after(lambda: end(pid(world))))

    unseen = tuple(name for name in rolled_back(restore).source if name != "thawed")
    differs = replace(rolled_back(restore, ("restored",)), source=unseen)
    yield Row(
        name="the source's CRIU is killed while it holds the container",
        wire=kill(lambda world: world.criu("source")),
        expected=differs,
        # The container, which goes on, need not have changed its memory by the comparison.
        also=(replace(differs, states=(*differs.states[:3], "held", *differs.states[3:])),),
    )
    seen = ("source", "pause monitor")
    yield Row(
        name="the container is killed while it is frozen",
        wire=kill(lambda world: world.init.pid),
        expected=replace(rolled_back(seen, (), 54, "ContainerEnded"), running=NOWHERE),
    )
    yield Row(
        name="the container is asked to stop while it is frozen",
        wire=lambda world: Fault(
            "request",
            "Restore",
            faults.after(lambda: os.kill(world.init.pid, signal.SIGTERM)),
        ),
        expected=rolled_back(seen),
        cause="ContainerDisturbed",
    )

    def undying(world: World) -> None:
        world.undying = True

    stuck = replace(
        so_far(("state", "killed")), code=60, error_kind="Undecided", running=NOWHERE, held=True
    )
    yield Row(
        name="the source's init does not die",
        world=undying,
        expected=stuck,
        limits=replace(PATIENT, death_s=0.2),
        later=("--go", "--source-is-dead"),
    )
    yield Row(
        name="Go: the answer never comes",
        wire=once("answer", "Go", faults.dropped),
        expected=MOVED,  # the target's journal says that it obeyed
        limits=replace(PATIENT, least_go_s=0.2),
        options=("--max-frozen", "2"),
    )
    yield Row(
        name="Restore: the answer never comes",
        wire=once("answer", "Restore", faults.dropped),
        expected=rolled_back(restore, ("restored",)),
        limits=replace(PATIENT, held_s=0.3, ask_s=0.2, abort_s=0.2),
    )

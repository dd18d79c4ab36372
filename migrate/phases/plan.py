"""The preflight as a whole: connect, check both hosts, then refuse or have a migration ready."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

from checkpoint.criu.edits import Edits
from checkpoint.criu.roles import DumpRole
from checkpoint.engines.base import Container, Engine
from checkpoint.errors import ContainerLocked, ContainerNotFound
from checkpoint.host import lock, memory, proc, processes
from checkpoint.host.cgroups import in_one_cgroup
from checkpoint.undo import Undo
from migrate.agent.client import AgentClient
from migrate.decisions import causes
from migrate.decisions.compatibility import Facts, room
from migrate.decisions.write_tracking import choose
from migrate.errors import MigrateError, MissingOnHost, NameTaken, Side
from migrate.guardian.handle import Guardian
from migrate.guardian.recovery import end_all
from migrate.journal.book import MigrationJournal, now_ms, process_record
from migrate.journal.records import SOURCE, Begun, ProcessRecord
from migrate.leftovers import sweep
from migrate.limits import Limits
from migrate.link import Link
from migrate.migration import Migration, Source, Target
from migrate.network.source import SourceNetwork
from migrate.observer import Observer
from migrate.options import Options
from migrate.phases import preflight
from migrate.phases.predict import check, content_of
from migrate.progress import Progress
from migrate.reach import Connect
from migrate.report import Report
from migrate.wire import protocol
from migrate.wire.failures import AgentFailed, AgentGone
from transport.connection import Connection
from transport.destination import Destination
from transport.throttle import RateLimit

#: The exit status of a POSIX shell that does not find the program.
COMMAND_NOT_FOUND = 127
#: A Beat comes so many times in the silence that the target bears.
BEATS = 6


@contextlib.contextmanager
def planned(
    report: Report, destination: Destination, observer: Observer, options: Options, connect: Connect
) -> Iterator[Migration]:
    """Check everything and change nothing; yield the migration, connected and ready to begin.

    The container is locked on each host before that host is checked. The lock on the source is held
    until the block ends; the agent releases the lock on the target when the migration has ended on
    that host. Raises Refused, or Interrupted at a signal.
    """
    with contextlib.ExitStack() as stack:
        try:
            migration = _plan(stack, Progress(report, observer), destination, connect, options)
        except MigrateError:
            raise
        except Exception as error:
            raise causes.refused(error, report.target) from error
        yield migration


def _plan(
    stack: contextlib.ExitStack,
    progress: Progress,
    destination: Destination,
    connect_to: Connect,
    options: Options,
) -> Migration:
    report, connect = progress.report, partial(connect_to, destination)
    if os.geteuid() == 0:  # another user is refused below
        # First: a killed migration may have changed this container.
        end_all(connect_to, progress.note)
        sweep(progress.note)
    engine, container, locks = stack.enter_context(_taken(options.engine, report))
    facts = preflight.check_source(engine, report.container)
    report.source, report.versions["source"] = facts.hostname, asdict(facts)
    pids = processes.tree_of(container.pid)
    source = _source(stack, engine, container, facts, pids)
    use = memory.use_of(partial(processes.tree_of, container.pid))
    report.sent.memory_bytes = use.resident_bytes

    guardian = stack.enter_context(Guardian(report.migration_id, source, locks, connect))
    link = stack.enter_context(Link(connect))
    hello = _hello(report, engine, container, options)
    agent, there = _greet(link, report, hello, progress.note, options.limits)
    agent.keep_beating(options.limits.silence_s / BEATS)
    stack.callback(agent.close)
    report.target, report.versions["target"] = there.hostname, asdict(there)
    with _dismissed_when_refused(agent, options.limits.abort_s):
        preflight.check_target(there, facts, container, use.restored_bytes)
        tracking, why = choose(options.mode, facts, there)
        content = content_of(container.pid, use.resident_bytes, () if tracking else None)
        factors = check(content, options.policy, progress)
        target = _target(link, connect, agent, there, source)
    report.times.clock_error_us = target.clock.error_ns // 1000
    progress.note(why)
    preflight.note_exec_processes(container, progress)
    edits = Edits(
        nftables=facts.nftables and there.nftables,
        one_cgroup=in_one_cgroup(container.pid, pids),
        network_namespace=container.network_namespace,
    )
    journal = stack.enter_context(_journal(report, source, link.destination, guardian))
    guardian.begin(journal)
    return Migration(
        migration_id=report.migration_id,
        options=options,
        source=source,
        target=target,
        tracking=tracking,
        factors=factors,
        room_bytes=room(use.restored_bytes, there.available_bytes),
        limit=RateLimit(options.bandwidth_limit),
        dump=stack.enter_context(contextlib.closing(DumpRole(edits))),
        progress=progress,
        journal=journal,
        guardian=guardian,
        undo=Undo(journal.made),
    )


def _journal(
    report: Report, source: Source, destination: Destination, guardian: Guardian
) -> MigrationJournal:
    """Begin the source's journal of the migration. Raises OSError."""
    return MigrationJournal(
        Begun(
            at_ms=now_ms(),
            boot_id=proc.boot_id(),
            migration_id=report.migration_id,
            side=SOURCE,
            engine=source.engine.name,
            container_name=source.container.name,
            source=report.source,
            target=report.target,
            destination=str(destination),
            container_id=source.container.id,
            init=ProcessRecord(*source.init.identity),
            process=process_record(os.getpid()),
            stand_by=process_record(guardian.pid),
        )
    )


def _source(
    stack: contextlib.ExitStack,
    engine: Engine,
    container: Container,
    facts: Facts,
    pids: list[int],
) -> Source:
    """Check the container, and open its init and its network.

    `facts` are those of this host, and `pids` are the container's processes.
    """
    preflight.check_starter(container)
    preflight.check_pid_namespace(container.pid)
    preflight.check_open_files(container, pids)
    preflight.check_limits(pids)
    return Source(
        engine=engine,
        container=container,
        init=stack.enter_context(contextlib.closing(processes.Init(container.pid))),
        network=stack.enter_context(contextlib.closing(SourceNetwork(container))),
        facts=facts,
    )


def _target(
    link: Link,
    reconnect: Callable[[], contextlib.AbstractContextManager[Connection]],
    agent: AgentClient,
    facts: Facts,
    source: Source,
) -> Target:
    """Have the agent check what the container needs on the target, and read the target's clock."""
    engine, container = source.engine, source.container
    shared = preflight.check_paths(agent, container, facts.hostname)
    layers_there = preflight.check_engine(agent, engine, container, facts.hostname)
    preflight.check_addresses(agent, source.network.own_addresses(), facts.hostname)
    return Target(
        link=link,
        reconnect=reconnect,
        agent=agent,
        facts=facts,
        clock=agent.clock_offset(),
        shared_rootfs=shared,
        layers_there=layers_there,
    )


@contextlib.contextmanager
def _taken(engine: str | None, report: Report) -> Iterator[tuple[Engine, Container, lock.Locks]]:
    """Find the container and its engine, and lock the container on the source for the block.

    Yields the locks, too. They are of the container's name and of its init. Raises Refused, also if
    the engine is not installed; ContainerLocked, ContainerNotRunning or ContainerNotFound; and what
    `inspect` of the engine raises besides.
    """
    found = preflight.choose_engine(engine, report.container)
    try:
        container = found.inspect(report.container)
    except ContainerNotFound:
        preflight.check_source(found, report.container)
        raise
    keys = [lock.name_key(found.name, container.name), lock.process_key(container.pid)]
    with lock.locked(
        keys, lock.holder_text(f"migration {report.migration_id}", report.source, report.target)
    ) as locks:
        yield found, container, locks


def _hello(
    report: Report, engine: Engine, container: Container, options: Options
) -> protocol.Hello:
    return protocol.Hello(
        version=protocol.PROTOCOL_VERSION,
        migration_id=report.migration_id,
        source=report.source,
        engine=engine.name,
        container_name=container.name,
        traces=options.debug,
    )


def _greet(
    connection: Connection,
    report: Report,
    hello: protocol.Hello,
    note: Callable[[str], None],
    limits: Limits,
) -> tuple[AgentClient, Facts]:
    """Start the agent, and have it lock the container on the target.

    Returns the agent and the facts of the target. Raises NameTaken if the target is the source,
    MissingOnHost if the target has no python3, AgentFailed (ContainerLocked, for one) and
    AgentGone.
    """
    traces_of = report.target if hello.traces else None
    try:
        agent = AgentClient(connection, note, traces_of=traces_of, send_s=limits.send_s)
        return agent, agent.request(hello, timeout_s=limits.hello_s).facts
    except AgentFailed as error:
        # The lock is this migration's own: the target is the source.
        if error.kind == ContainerLocked.__name__ and report.migration_id in error.text:
            raise NameTaken(hello.container_name, report.target, hello.engine) from error
        raise
    except AgentGone as error:
        if error.status == COMMAND_NOT_FOUND:
            raise MissingOnHost(Side.TARGET, report.target, "python3") from error
        raise


@contextlib.contextmanager
def _dismissed_when_refused(agent: AgentClient, limit_s: float) -> Iterator[None]:
    """End the agent if the block fails, before the failure is reported.

    The target's lock is then free for the user's next try.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # the block's failure is the one to report
            agent.request(protocol.Abort(), timeout_s=limit_s)
        raise

"""Preflight as a whole: connect, look at both hosts, and either refuse or have a move ready to begin."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

from checkpoint.criu.session import Edits
from checkpoint.host import memory, processes
from checkpoint.host.cgroups import in_one_cgroup
from migrate import causes, protocol
from migrate.agent.client import AgentClient
from migrate.config import Options
from migrate.context import Context
from migrate.errors import AgentGone, MigrateError, MissingOnHost, Where
from migrate.events import Observer
from migrate.facts import Facts, room
from migrate.leftovers import sweep
from migrate.phases import preflight
from migrate.report import Report
from migrate.tracking import choose
from transport.connection import Connection
from transport.destination import Destination
from transport.throttle import RateLimit

#: How a POSIX shell ends when it finds no such program.
COMMAND_NOT_FOUND = 127


#: Makes a connection for the length of a block. Raises ConnectError.
Connect = Callable[[Destination], contextlib.AbstractContextManager[Connection]]


@contextlib.contextmanager
def planned(
    report: Report, destination: Destination, observer: Observer, options: Options, connect: Connect
) -> Iterator[Context]:
    """Check everything, change nothing; yield the move, connected and ready to begin. Raises Refused."""
    with contextlib.ExitStack() as stack:
        try:
            move = _plan(stack, report, connect(destination), observer, options)
            preflight.note_processes_beside(move.note, move.container)
        except MigrateError:
            raise
        except Exception as error:
            raise causes.refused(error, report.target) from error
        yield move


def _plan(
    stack: contextlib.ExitStack,
    report: Report,
    connected: contextlib.AbstractContextManager[Connection],
    observer: Observer,
    options: Options,
) -> Context:
    started_ns = time.monotonic_ns()
    runtime = preflight.choose_runtime(options.engine, report.container)
    note = _noting(observer, report)
    sweep(note)
    source = preflight.check_source(runtime, report.container)
    report.source, report.versions["source"] = source.hostname, asdict(source)
    container = runtime.inspect(report.container)
    pids = processes.tree_of(container.pid)
    preflight.check_open_files(container, pids)
    preflight.check_limits(pids)
    network = preflight.read_network(container)
    use = memory.use_of(partial(processes.in_pid_namespace_of, container.pid))
    report.memory_bytes = use.resident_bytes

    connection = stack.enter_context(connected)
    agent, target = _greet(connection, report, runtime.name, note)
    stack.callback(agent.close)
    report.target, report.versions["target"] = target.hostname, asdict(target)
    preflight.check_target(target, source, container, use.restored_bytes)
    tracking, why = choose(options.mode, source, target)
    shared = preflight.check_paths(agent, container, target.hostname)
    layers_there = preflight.check_engine(agent, runtime, container, target.hostname)
    preflight.check_addresses(agent, network, target.hostname)

    clock = agent.clock_offset()
    report.clock_error_us = clock.error_ns // 1000
    note(why)
    return Context(
        migration_id=report.migration_id,
        runtime=runtime,
        container=container,
        init=stack.enter_context(contextlib.closing(processes.Init(container.pid))),
        network=network,
        observer=observer,
        report=report,
        connection=connection,
        agent=agent,
        source=source,
        target=target,
        shared_rootfs=shared,
        layers_there=layers_there,
        clock=clock,
        started_ns=started_ns,
        edits=Edits(
            nftables=source.nftables and target.nftables,
            one_cgroup=in_one_cgroup(container.pid, pids),
            network_namespace=container.network_namespace,
        ),
        options=options,
        tracking=tracking,
        room_bytes=room(use.restored_bytes, target.available_bytes),
        limit=RateLimit(options.bandwidth_limit),
    )


def _noting(observer: Observer, report: Report) -> Callable[[str], None]:
    """What tells whoever watches, and keeps it for the report."""

    def note(text: str) -> None:
        observer.note(text)
        report.notes.append(text)

    return note


def _greet(
    connection: Connection, report: Report, engine: str, note: Callable[[str], None]
) -> tuple[AgentClient, Facts]:
    """Start the agent and learn what host it is on."""
    hello = protocol.Hello(
        version=protocol.PROTOCOL_VERSION,
        migration_id=report.migration_id,
        runtime=engine,
        container_id=report.container,
    )
    try:
        agent = AgentClient(connection, note)
        return agent, agent.request(hello).facts
    except AgentGone as error:
        if error.status == COMMAND_NOT_FOUND:
            raise MissingOnHost(Where.TARGET, report.target, "python3") from error
        raise

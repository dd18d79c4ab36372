"""One move, from the first question to the last clean-up. Read `_go_through` top to bottom."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator

from checkpoint.criu.session import Edits
from checkpoint.host import processes
from checkpoint.host.cgroups import in_one_cgroup
from checkpoint.runtimes.registry import runtime_named
from migrate import protocol
from migrate.agent.client import AgentClient, AgentFailed, AgentGone
from migrate.context import Context
from migrate.errors import (
    AuthenticationFailed,
    ChangedHostKey,
    Interrupted,
    MigrateError,
    MissingOnHost,
    Refused,
    RolledBack,
    TargetUnreachable,
    UnknownHostKey,
    Where,
)
from migrate.events import Observer
from migrate.facts import Facts
from migrate.phases import commit, freeze, precopy, preflight, prepare
from migrate.phases.rollback import roll_back
from migrate.report import Report
from migrate.signals import Signals
from transport import ssh
from transport.destination import Destination
from transport.errors import (
    AuthenticationRefused,
    ConnectError,
    HostKeyChanged,
    HostKeyUnknown,
)

#: How a POSIX shell ends when it finds no such program.
COMMAND_NOT_FOUND = 127


def move_container(container_id: str, destination: Destination, observer: Observer, *, engine: str = "runc") -> Report:
    """Move a container. Returns the report of a move that succeeded.

    Raises Refused (nothing was changed), RolledBack (the source runs it, as before) or Undecided (the
    target holds it). A Refused or RolledBack leaves no trace on the target.
    """
    report = Report(
        migration_id=secrets.token_hex(6),
        container=container_id,
        source="",
        target=destination.name,
        started_unix_ns=time.time_ns(),
    )
    with Signals() as signals, _planned(container_id, destination, observer, engine, report) as move:
        try:
            _go_through(move, signals)
        except MigrateError as error:
            report.error = str(error)
            raise
        finally:
            report.outcome = move.state.value
            report.total_us = (time.monotonic_ns() - move.started_ns) // 1000
    return report


def _go_through(move: Context, signals: Signals) -> None:
    try:
        prepare.prepare(move)
        prepare.arm(move)
        ahead = precopy.pre_copy(move)
        frozen_ns, sent_before = time.monotonic_ns(), move.agent.sent_bytes
        sent = freeze.freeze(move, ahead)
        freeze.transfer(move, ahead, sent)
        freeze.restore(move, sent)
        move.report.frozen_bytes_sent = move.agent.sent_bytes - sent_before
        with signals.shielded():
            commit.commit(move)
            _settle(move, frozen_ns)
            commit.clean_up(move)
    except BaseException as error:
        with signals.shielded():
            if move.reversible:
                raise _rolled_back(error, roll_back(move)) from error
            commit.leave_source(move)
        raise


def _settle(move: Context, frozen_ns: int) -> None:
    """Downtime: from the release of the dump to CRIU's word that the tasks run again."""
    assert move.dump is not None
    for stamp in move.dump.stamps:
        move.stage(stamp.name, "source", stamp.at_ns)
    resumed = next(stage.at_us for stage in move.report.freeze if stage.name == "resumed")
    move.report.downtime_us = resumed - (frozen_ns - move.started_ns) // 1000


def _rolled_back(error: BaseException, left: list[str]) -> MigrateError:
    """What a failure before the kill is told as."""
    if isinstance(error, Interrupted | RolledBack):
        return error
    advice = "; ".join(left) or "see the reason above, then try again"
    if isinstance(error, AgentFailed):
        said = (
            f"{error.text}{': ' + '; '.join(error.detail[-3:]) if error.detail and error.kind != 'CriuFailed' else ''}"
        )
        return RolledBack(f"the target failed: {said}", advice)
    return RolledBack(f"the move failed: {error or type(error).__name__}", advice)


@contextlib.contextmanager
def _planned(
    container_id: str, destination: Destination, observer: Observer, engine: str, report: Report
) -> Iterator[Context]:
    """Preflight: everything is checked, nothing is changed. Yields the move, ready to begin."""
    started_ns = time.monotonic_ns()
    runtime = runtime_named(engine)
    source = preflight.check_source(runtime, container_id)
    container = preflight.find_container(runtime, container_id)
    pids = processes.in_pid_namespace_of(container.pid)
    preflight.check_open_files(container, pids)
    network = preflight.read_network(container)
    report.source, report.memory_bytes = source.hostname, preflight.memory_of(pids)
    with _connected(destination) as connection, contextlib.ExitStack() as stack:
        agent, target = _greet(connection, report, engine, observer)
        stack.callback(agent.close)
        report.target = target.hostname
        report.versions = {"source": source.to_wire(), "target": target.to_wire()}
        preflight.check_target(agent, target, source, container, report.memory_bytes)
        shared = preflight.check_paths(agent, container, target.hostname)
        preflight.check_addresses(agent, network, target.hostname)
        init = stack.enter_context(contextlib.closing(processes.Init(container.pid)))
        clock = agent.clock_offset()
        report.clock_error_us = clock.error_ns // 1000
        yield Context(
            migration_id=report.migration_id,
            runtime=runtime,
            container=container,
            pids=pids,
            init=init,
            network=network,
            observer=observer,
            report=report,
            connection=connection,
            agent=agent,
            source=source,
            target=target,
            shared_rootfs=shared,
            clock=clock,
            started_ns=started_ns,
            edits=Edits(
                nftables=source.nftables and target.nftables, runtime_has_cgroups=in_one_cgroup(container.pid, pids)
            ),
        )


def _greet(connection: ssh.Connection, report: Report, engine: str, observer: Observer) -> tuple[AgentClient, Facts]:
    """Start the agent and learn what host it is on."""
    hello = protocol.Hello(
        version=protocol.PROTOCOL_VERSION,
        migration_id=report.migration_id,
        runtime=engine,
        container_id=report.container,
    )
    try:
        agent = AgentClient(connection, observer.note)
        return agent, Facts.from_wire(agent.request(hello, protocol.Welcome).facts)
    except AgentGone as error:
        if error.status == COMMAND_NOT_FOUND:
            raise MissingOnHost(Where.TARGET, report.target, "python3") from error
        raise TargetUnreachable(f"no agent could be started on {report.target}: {error}") from error
    except AgentFailed as error:
        raise Refused(f"the agent on {report.target} failed: {error}", "see the reason above") from error


@contextlib.contextmanager
def _connected(destination: Destination) -> Iterator[ssh.Connection]:
    """An SSH connection, its errors told as ours."""
    told = {AuthenticationRefused: AuthenticationFailed, HostKeyUnknown: UnknownHostKey, HostKeyChanged: ChangedHostKey}
    with contextlib.ExitStack() as stack:
        try:
            connection = stack.enter_context(ssh.connect(ssh.Endpoint.of(destination)))
        except ConnectError as error:
            raise told.get(type(error), TargetUnreachable)(str(error)) from error
        yield connection

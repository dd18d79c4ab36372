"""The agent's main loop: it answers one request after the other until the channel ends.

Standard output carries the protocol. All that a library or a child prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

from checkpoint.errors import ContainerLocked, CriuFailed, RestoreLost, reason
from checkpoint.host.own_process import keep_to_itself
from checkpoint.host.ready import ready
from checkpoint.schema import harmless
from migrate import logs
from migrate.agent.control import ControlSocket
from migrate.agent.incoming import Incoming
from migrate.agent.outlast import Outlasting, yielded
from migrate.agent.recover import recover
from migrate.agent.state import State, check_command
from migrate.decisions import causes
from migrate.limits import Limits
from migrate.wire import protocol
from migrate.wire.protocol import Answer, Command, Request, Streamed
from migrate.wire.values import LogFile
from transport.errors import StreamError, TooSlow
from transport.framing import FrameStream
from transport.lasting_descriptors import LastingDescriptors

#: A Failed answer has at most so many lines of CRIU's log.
MOST_DETAIL = 64
#: So many records of the log go before one answer at most (MOST_LOGGED of client.py).
MOST_TRACES = 200


class Server:
    """The agent's server, for the coordinator on a channel and for an operator at a socket."""

    def __init__(
        self, channel: LastingDescriptors, limits: Limits, recorder: logs.Recorder | None = None
    ) -> None:
        self._channel, self._stream = channel, FrameStream(channel)
        self._recorder = recorder
        self._limits = limits
        self._incoming: Incoming | None = None
        self._outlasting: Outlasting | None = None
        self._failure: Exception | None = None
        #: Where the last answer ends in all that was sent.
        self._answered = 0
        self._traces, self._migration_id = False, ""

    def serve(self) -> None:
        """Serve until the channel ends, then undo or finish what the migration began.

        A held container is kept first, until an operator has ended the hold (control.py).
        """
        try:
            while self._serve_one():
                pass
        except (StreamError, OSError, protocol.ProtocolError) as error:
            _say(str(error))
        finally:
            self._settle()
            if self._incoming is not None:
                if self._incoming.holds_container:
                    self._hold(self._incoming)
                try:
                    self._incoming.close()
                except Exception as error:  # noqa: BLE001  (only stderr is left to report it to)
                    _say(f"not all was undone: {reason(error)}")

    def _serve_one(self) -> bool:
        if self._incoming is not None and self._incoming.holds_container:
            self._wait_for_word(self._incoming)
            if not self._incoming.holds_container:
                return False
        request = protocol.decode(*self._stream.receive(), Command)
        if isinstance(request, Request):  # which no peer sends that lacks an answer
            self._channel.confirmed(self._answered)
        try:
            check_command(
                self._incoming.state if self._incoming is not None else State.CONNECTED, request
            )
        except protocol.ProtocolError as error:
            return self._refuse(request, error)
        try:
            for answer in self._handle(request):
                self._send(request, answer)
        except StreamError:
            raise
        except Exception as error:  # noqa: BLE001  (the coordinator must hear of it, and undo)
            if not isinstance(error, RestoreLost):  # whose way back is in the state
                self._failure = error
            self._send(request, _failed(error))
        return not isinstance(request, protocol.Finish | protocol.Abort | protocol.Recover)

    def _refuse(self, request: Command, error: protocol.ProtocolError) -> bool:
        """Answer a command that came out of order, and change nothing.

        Returns True: another command may come.
        """
        if isinstance(request, Streamed):  # it has no answer: the next request's answer reports it
            self._failure = self._failure or error
        self._send(request, _failed(error))
        return True

    def _send(self, request: Command, answer: Answer) -> None:
        """Send the answer to a request.

        A streamed command gets none: what went wrong with it is in the next request's answer.
        """
        if isinstance(request, Request):
            self._send_traces()
            self._stream.send(protocol.encode(answer), [memoryview(protocol.payload_of(answer))])
            self._answered = self._channel.position

    def _send_traces(self) -> None:
        """Send the records that this program has logged since the last answer, if asked to."""
        if self._traces and self._recorder is not None:
            for record in self._recorder.take_new(MOST_TRACES):
                trace = protocol.Trace(
                    at_ms=int(record.created * 1000),
                    thread=harmless(record.threadName or ""),
                    logger=record.name,
                    text=harmless(record.getMessage()),
                )
                self._stream.send(protocol.encode(trace))

    def _handle(self, request: Command) -> Iterable[Answer]:
        if isinstance(request, protocol.Beat):
            return [protocol.Done()]
        if isinstance(request, protocol.Logs):
            return [self._logs()]
        if isinstance(request, protocol.Recover):
            return [recover(request, self._log)]
        # After a failure nothing is obeyed but Abort and Go. Go comes when the source's container
        # is dead already: the restored one must run.
        if self._failure is not None and not isinstance(request, protocol.Abort | protocol.Go):
            raise self._failure
        if isinstance(request, protocol.Hello):
            if request.version != protocol.PROTOCOL_VERSION:
                raise protocol.ProtocolError(
                    f"agent speaks version {protocol.PROTOCOL_VERSION}, not {request.version}"
                )
            self._traces, self._migration_id = request.traces, request.migration_id
            self._incoming = self._begun(request)
            return [self._incoming.welcome()]
        assert self._incoming is not None
        if isinstance(request, protocol.Ping):
            batches = self._incoming.check()
            return [protocol.Clock(monotonic_ns=time.monotonic_ns(), batches=batches)]
        if isinstance(request, protocol.Outlast):
            self._outlasting = self._outlasting or Outlasting(
                self._channel, self._incoming, self._migration_id, request.seconds, _say
            )
            return [protocol.Done()]
        if isinstance(request, protocol.Arm):
            self._settle()
        return self._incoming.handle(request)

    def _begun(self, hello: protocol.Hello) -> Incoming:
        """Return a migration that has the container locked. Raises ContainerLocked."""
        try:
            return Incoming(hello, self._log, self._limits)
        except ContainerLocked as error:
            if not yielded(error.holder, hello.source):
                raise
        return Incoming(hello, self._log, self._limits)

    def _settle(self) -> None:
        """Outlast no connection any more."""
        if self._outlasting is not None:
            self._outlasting.settle()

    def _logs(self) -> protocol.LogsFound:
        """Return the logs that tell of a failure: the agent's own, CRIU's and the engine's."""
        found = [] if self._failure is None else [logs.traceback_of(self._failure)]
        if self._recorder is not None:
            found.append(self._recorder.log("agent.log"))
        if self._incoming is not None:
            found += logs.gather(self._incoming.directory)
        found = found[: logs.MOST_FILES]
        files = tuple(LogFile(name, len(data)) for name, data in found)
        return protocol.LogsFound(files=files, payload=b"".join(data for _, data in found))

    def _wait_for_word(self, incoming: Incoming) -> None:
        """Wait, with the container held, for the coordinator's next command or for an operator.

        Returns when the channel can be read, or when an operator at the control socket has ended
        the hold. Raises TooSlow when the coordinator was silent for too long.
        """
        until_s = time.monotonic() + self._limits.silence_s
        with ControlSocket(incoming.control_path) as control:
            while (left_s := until_s - time.monotonic()) > 0:
                waiting = ready(self._channel.reader, control.fileno(), timeout_s=left_s)
                if self._channel.reader in waiting:
                    return
                if waiting and control.answer(incoming, link_alive=True):
                    return
        raise TooSlow(f"the coordinator has said nothing for {self._limits.silence_s:g} s")

    def _hold(self, incoming: Incoming) -> None:
        """Keep holding the container after the link has ended, until an operator ends the hold.

        The agent neither resumes nor drops the container by itself.
        """
        # Nothing is read any more. A coordinator that is still there, and has sent something that
        # is no message, sees the end of the channel.
        self._channel.hang_up()
        while incoming.holds_container:
            try:
                with ControlSocket(incoming.control_path) as control:
                    while not control.answer(incoming, link_alive=False):
                        pass
            except Exception as error:  # noqa: BLE001  (to end here would drop the container)
                _say(f"cannot be asked: {reason(error)}")
                time.sleep(1)

    def _log(self, text: str) -> None:
        """Send a line to the coordinator, or print it on standard error if the link is gone."""
        try:
            self._stream.send(protocol.encode(protocol.Log(text=harmless(text))))
        except (StreamError, OSError):
            _say(text)


def _say(text: str) -> None:
    """Print a line on standard error, if that can still be written.

    Standard error may have ended with the channel. That must not keep the agent from cleaning up.
    """
    with contextlib.suppress(OSError):
        print(f"migrate agent: {text}", file=sys.stderr, flush=True)


def _failed(error: Exception) -> protocol.Failed:
    detail = error.log[-MOST_DETAIL:] if isinstance(error, CriuFailed) else ()
    text = harmless(reason(error))
    return protocol.Failed(
        kind=causes.kind_of(error), text=text, detail=tuple(map(harmless, detail))
    )


def main() -> None:
    """Run the agent: the zipapp's entry point, with the channel as standard input and output."""
    os.umask(0o077)
    keep_to_itself()
    # The agent must outlive its terminal and its connection: it may hold a container.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with contextlib.suppress(PermissionError):  # sshd has made it a session's leader already
        os.setsid()
    reader, writer = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    with logs.recorded() as recorder:
        limits = Limits()
        Server(LastingDescriptors(reader, writer, limits.silence_s), limits, recorder).serve()

"""`migratectl recover`: bring a migration that was cut off to its end, from either of its hosts.

On the source its journal and the container's processes decide, and the target is told by SSH. On
the target the source is asked by SSH, or the operator knows.
"""

from __future__ import annotations

import argparse
import os
import platform
import time

from migrate.agent import asking, control
from migrate.agent.control import Outcome
from migrate.agent.recover import recover as pass_on
from migrate.cli.console import check_root, put, say
from migrate.cli.exit_codes import CODES, CTL_CODES
from migrate.decisions import causes, recovery
from migrate.decisions.recovery import SourceSeen
from migrate.decisions.takeover import Act, Life
from migrate.errors import BadRequest, LostThere, MigrateError
from migrate.guardian.recovery import end_cut_off, told
from migrate.journal import book, cut_off
from migrate.journal.book import Listed
from migrate.journal.records import SOURCE, TARGET
from migrate.leftovers import sweep
from migrate.reach import by_ssh
from migrate.wire import protocol
from migrate.wire.failures import AgentGone
from transport.destination import Destination
from transport.errors import TransportError

#: How long a guardian that is at it is waited for.
GUARDIAN_S, LOOK_AGAIN_S = 30.0, 0.1


def run(arguments: argparse.Namespace) -> int:
    """Recover one migration, or all that were cut off on this host, and return the exit code.

    What killed migrations have left on this host is removed, too.
    """
    code = _recover(arguments)
    if os.geteuid() == 0:
        sweep(say)
    return code


def _recover(arguments: argparse.Namespace) -> int:
    if arguments.source_is_dead and not arguments.go:
        raise BadRequest("'--source-is-dead' is said together with '--go'", "add '--go'")
    if arguments.id is None:
        if arguments.go or arguments.abort or arguments.on:
            raise BadRequest(
                "'--go', '--abort' and '--on' are for one migration",
                "name it by its id, which 'migratectl status' shows",
            )
        check_root()
        return _all()
    if os.geteuid() == 0:
        if (found := book.find(arguments.id, SOURCE)) is not None:
            return _on_source(found, arguments)
        if (found := book.find(arguments.id, TARGET)) is not None:
            return _on_target(found, arguments)
        if arguments.on is None and book.is_damaged(arguments.id):
            return _refused(recovery.DAMAGED)
    if arguments.on is not None:
        return _elsewhere(arguments)
    check_root()
    if (objection := _objection(_word(arguments), None, arguments)) is not None:
        return _refused(objection)
    return _nothing(arguments.id, platform.node(), "name one of the move's hosts by '--on'")


def _all() -> int:
    left = 0
    unended = [found for found in book.listed() if found.account.ended is None]
    for found in unended:
        if found.account.begun.side == SOURCE and not found.owned:
            left |= _end(found, None)
        elif found.account.begun.side == TARGET and found.owned:
            left |= _held(found, _how(found))
    if not unended:
        say("migratectl: no move was cut off on this host")
    return left


def _how(found: Listed) -> str:
    """Return, for people, how a migration to this host stands whose process lives."""
    begun, state = found.account.begun, found.account.state or "begun"
    return (
        f"the move {begun.migration_id} of container {begun.container_name!r} from {begun.source}"
        f" to this host goes on, or waits for its source ({state})"
    )


def _on_source(found: Listed, arguments: argparse.Namespace) -> int:
    found = _once_the_guardian_has_ended(found)
    seen, objection = _seen(found), None
    if arguments.go:
        objection = recovery.objection_to_go(seen, said_dead=arguments.source_is_dead)
    elif arguments.abort:
        objection = recovery.objection_to_abort(seen)
    elif seen.goes_on:
        alive = book.is_alive(found.account.begun.process)
        objection = recovery.GOES_ON if alive else recovery.GUARDED
    if found.account.ended is not None and objection is None:
        put(f"migratectl: the move {arguments.id} has ended: {found.account.state}")
        return 0
    if objection is not None:
        return _refused(objection)
    return _end(found, arguments.on, go=arguments.go, abort=arguments.abort)


def _end(found: Listed, on: str | None, *, go: bool = False, abort: bool = False) -> int:
    try:
        act = end_cut_off(found, by_ssh, say, on, go=go, abort=abort)
    except (BlockingIOError, FileNotFoundError):
        return _refused(recovery.GOES_ON)
    except ValueError as error:
        raise BadRequest(str(error), "see 'migratectl recover --help'") from error
    put(f"migratectl: {told(found.account.begun, act)}")
    if act is Act.GIVE_UP:
        return CODES[LostThere]
    return 0 if act in (Act.FINISH, Act.END_BACK) else CTL_CODES["NotRecovered"]


def _once_the_guardian_has_ended(found: Listed) -> Listed:
    """Wait for a guardian that ends the migration, as long as GUARDIAN_S; return the journal."""
    begun = found.account.begun
    until = time.monotonic() + GUARDIAN_S
    while found.owned and not book.is_alive(begun.process) and time.monotonic() < until:
        time.sleep(LOOK_AGAIN_S)
        found = book.find(begun.migration_id, SOURCE) or found
    return found


def _seen(found: Listed) -> SourceSeen:
    begun = found.account.begun
    assert begun.init is not None
    return SourceSeen(
        state=found.account.state,
        goes_on=found.owned,
        init=begun.init.pid,
        lives=(life := cut_off.life_on_source(begun)) in (Life.LIVES, Life.ANEW),
        anew=life is Life.ANEW,
    )


def _on_target(found: Listed, arguments: argparse.Namespace) -> int:
    """Say the word to what holds the container here, if the source or the operator proves it."""
    word = _word(arguments)
    seen = _source_of(found, arguments.on) if arguments.on is not None else None
    if seen is not None and word == control.STATUS:
        word = _word_for(seen)
    if (objection := _objection(word, seen, arguments)) is not None:
        return _refused(objection)
    answer = pass_on(protocol.Recover(migration_id=arguments.id, word=word, frames=()), say)
    if word == control.STATUS and answer.outcome == Outcome.OK.value and _is_held(answer):
        return _held(found, answer.text)
    return _answered(arguments.id, platform.node(), answer)


def _is_held(answer: protocol.Recovered) -> bool:
    return answer.state not in cut_off.RUNS_THERE


def _held(found: Listed, how: str) -> int:
    """Say what ends the hold of a container on this host, which the source alone can decide."""
    begun = found.account.begun
    say(
        f"migratectl: {how}; nothing was changed; 'migratectl recover {begun.migration_id}' on"
        f" {begun.source} ends the move, or the same here with '--on {begun.source}'"
    )
    return CTL_CODES["NotRecovered"]


def _source_of(found: Listed, host: str) -> SourceSeen:
    """Return what the source of a migration to this host shows. Raises Refused."""
    answer = ask_on(host, found.account.begun.migration_id, control.STATUS)
    if answer.life is None:
        raise BadRequest(
            f"{host} has no journal of that move as its source", "name the move's source by '--on'"
        )
    return SourceSeen(
        state=answer.state,
        goes_on=answer.goes_on,
        init=None,
        lives=answer.life in (Life.LIVES.value, Life.ANEW.value),
        anew=answer.life == Life.ANEW.value,
    )


def _word_for(seen: SourceSeen) -> str:
    """Return the word that what the source shows means for the target's copy."""
    if seen.goes_on or seen.anew:
        return control.STATUS
    return control.GO if recovery.objection_to_abort(seen) else control.ABORT_PROVED


def _word(arguments: argparse.Namespace) -> str:
    if arguments.go:
        return control.GO
    return control.ABORT if arguments.abort else control.STATUS


def _objection(word: str, seen: SourceSeen | None, arguments: argparse.Namespace) -> str | None:
    if word == control.GO:
        return recovery.objection_to_go(seen, said_dead=arguments.source_is_dead)
    if word in (control.ABORT, control.ABORT_PROVED):
        return recovery.objection_to_abort(seen)
    if seen is None:
        return None
    return recovery.STARTED_AGAIN if seen.anew else recovery.GOES_ON


def _elsewhere(arguments: argparse.Namespace) -> int:
    word = _word(arguments)
    if (objection := _objection(word, None, arguments)) is not None:
        return _refused(objection)
    return _answered(arguments.id, arguments.on, ask_on(arguments.on, arguments.id, word))


def _answered(migration_id: str, host: str, answer: protocol.Recovered) -> int:
    outcome = Outcome(answer.outcome)
    if outcome in (Outcome.NOBODY, Outcome.LOST):
        return _nothing(migration_id, host, "look for the container with the engine there")
    put(f"migratectl: {outcome.value}: {answer.text}")
    return 0 if outcome is Outcome.OK else CTL_CODES["NotRecovered"]


def _refused(objection: str) -> int:
    say(f"migratectl: {objection}; nothing was changed")
    return CTL_CODES["NotRecovered"]


def _nothing(migration_id: str, host: str, advice: str) -> int:
    say(
        f"migratectl: nobody on {host} holds a container for migration {migration_id};"
        f" nothing was changed; {advice}"
    )
    return CTL_CODES["NothingHeld"]


def ask_on(host: str, migration_id: str, word: str) -> protocol.Recovered:
    """Send a word to what holds the container of a migration on another host; return the answer.

    Raises BadRequest for a host that cannot be parsed, and Refused for one that cannot be asked.
    """
    try:
        destination = Destination.parse(host)
    except ValueError as error:
        raise BadRequest(str(error), "see 'migratectl recover --help'") from error
    try:
        with by_ssh(destination) as connection:
            return asking.answer(connection, migration_id, word, say)
    except MigrateError:
        raise
    except (TransportError, AgentGone) as error:
        raise causes.refused(error, host) from error

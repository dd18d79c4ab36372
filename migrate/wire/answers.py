"""Checks that an answer of the target fits what was asked. No I/O here.

Types, bounds and forms of answers are declared in protocol.py; these checks are of what depends
on the question. A target that answers anything else is broken or hostile, and the migration ends
with ProtocolError.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from checkpoint.schema import shown
from migrate.wire.protocol import ProtocolError


def check_asked(question: str, answered: Sequence[str], asked: Sequence[str]) -> None:
    """Raise ProtocolError unless `answered` are some of `asked`, in their order, each once."""
    left = iter(asked)
    for each in answered:
        if each not in left:  # the search takes from `left` all that comes before
            raise ProtocolError(
                f"the target answered {question} by {shown(each)}, "
                "which is not what it was asked for"
            )


def check_known(question: str, answered: Collection[str], known: Collection[str]) -> None:
    """Raise ProtocolError unless all of `answered` are `known`."""
    for each in answered:
        if each not in known:
            raise ProtocolError(
                f"the target answered {question} by {shown(each)}, "
                "which is not what it was asked for"
            )

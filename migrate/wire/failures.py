"""How a conversation with an agent fails. A user is never told these errors.

migrate/decisions/causes.py turns them into those of migrate/errors.py. No I/O here.
"""

from __future__ import annotations

from collections.abc import Sequence


class AgentFailed(Exception):
    """The agent answered Failed. `kind` is causes.kind_of the error on the target."""

    def __init__(self, kind: str, text: str, detail: Sequence[str]) -> None:
        self.kind, self.text, self.detail = kind, text, tuple(detail)
        super().__init__(text)


class AgentGone(Exception):
    """The channel to the agent ended, with `said` last on stderr and with exit status `status`."""

    def __init__(self, reason: str, said: str, status: int | None) -> None:
        self.said, self.status = said, status
        super().__init__(f"{reason}{': ' + said if said else ''}")


class AgentEnded(AgentGone):
    """The agent is not there any more, although its host is reached."""

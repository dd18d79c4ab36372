"""All parsers that are tested with damaged input, by name."""

from __future__ import annotations

from tests.fuzz import engines, host, ssh, wire
from tests.fuzz.parser import Parser

PARSERS: dict[str, Parser] = {**wire.PARSERS, **host.PARSERS, **engines.PARSERS, **ssh.PARSERS}

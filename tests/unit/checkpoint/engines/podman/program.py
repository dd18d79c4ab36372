"""A `podman` on PATH that has answers for some command lines, and writes all of them down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Each answer is a directory whose name is its number. If two answers fit, the later one counts.
PROGRAM = """#!/bin/sh
printf '%s\\n' "$*" >> {directory}/asked
for answer in $(ls -r {directory}/answers); do
    answer={directory}/answers/$answer
    case "$*" in
        $(cat $answer/words))
            cat $answer/said
            cat $answer/errors >&2
            exit $(cat $answer/status) ;;
    esac
done
exit 0
"""


class Podman:
    """The answers of the program to command lines, and a record of what it was asked."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "podman"
        (self._directory / "answers").mkdir(parents=True)
        program = directory / "bin/podman"
        program.parent.mkdir(exist_ok=True)
        program.write_text(PROGRAM.format(directory=self._directory))
        program.chmod(0o755)
        self._answers = 0

    def says(self, words: str, said: Any = "", *, errors: str = "", status: int = 0) -> None:
        """Let the program answer `words`, a pattern with * for the rest, by text or by JSON."""
        self._answers += 1
        answer = self._directory / "answers" / f"{self._answers:03}"
        answer.mkdir()
        (answer / "words").write_text(words.replace(" ", "\\ "))
        (answer / "said").write_text(said if isinstance(said, str) else json.dumps(said))
        (answer / "errors").write_text(errors)
        (answer / "status").write_text(str(status))

    def lacks(self, kind: str, name: str) -> None:
        self.says(f"{kind} exists {name}", status=1)

    def asked(self, words: str = "") -> list[str]:
        """Return the command lines so far that begin with these words."""
        asked = self._directory / "asked"
        lines = asked.read_text().splitlines() if asked.exists() else []
        return [line for line in lines if line.startswith(words)]

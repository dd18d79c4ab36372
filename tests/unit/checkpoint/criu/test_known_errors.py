"""Tests of checkpoint/criu/known_errors.py: what users read of CRIU's errors."""

from __future__ import annotations

from checkpoint import errors as checkpoint_errors


def test_options_that_nobody_can_give_are_not_named() -> None:
    lines = [
        "Error (criu/sk-inet.c:185): In-flight connection (l) for 1f",
        "Error (criu/sk-inet.c:186): "
        "In-flight connections can be ignored with the --skip-in-flight option.",
        "Error (criu/sk-unix.c:874): External socket is used. Consider using --ext-unix-sk option.",
        "Error (criu/cr-dump.c:1): no luck",
    ]
    assert "--" not in str(checkpoint_errors.CriuFailed("dump", lines))
    assert "--" not in str(checkpoint_errors.CriuFailed("dump", lines[2:]))
    unknown = str(checkpoint_errors.CriuFailed("dump", ["Error (x.c:1): no luck", *lines[:0]]))
    assert unknown == "CRIU failed in dump: Error (x.c:1): no luck"

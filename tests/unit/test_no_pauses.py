"""migrate/no_pauses.py: the interpreter is as it was afterwards."""

from __future__ import annotations

import gc
import sys

import pytest

from migrate.no_pauses import SWITCH_INTERVAL_S, no_pauses


def test_the_interpreter_is_as_it_was_afterwards() -> None:
    usual_s = sys.getswitchinterval()
    with no_pauses(), no_pauses():
        assert not gc.isenabled()
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    assert gc.isenabled()
    assert sys.getswitchinterval() == usual_s

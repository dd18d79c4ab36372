"""Tests of migrate/no_pauses.py: the interpreter has its usual settings again afterwards."""

from __future__ import annotations

import gc
import sys

import pytest

from migrate.no_pauses import SWITCH_INTERVAL_S, no_pauses


def test_the_interpreter_is_as_it_was_after_the_last_of_several_migrations() -> None:
    usual_s, frozen = sys.getswitchinterval(), gc.get_freeze_count()
    with no_pauses():
        with no_pauses():
            pass
        assert not gc.isenabled()
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    assert gc.isenabled()
    assert sys.getswitchinterval() == usual_s
    assert gc.get_freeze_count() == frozen, "what is frozen is never given back"

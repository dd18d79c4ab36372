"""Tests of migrate/wire/answers.py: an answer is believed as far as it was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.wire.answers import check_asked, check_known
from migrate.wire.protocol import ProtocolError


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_an_answer_has_only_what_was_asked_for_in_its_order(
    answered: list[str], asked: list[str]
) -> None:
    at = 0
    for each in asked:
        at += at < len(answered) and answered[at] == each
    if at == len(answered):
        check_asked("Question", answered, asked)
    else:
        with pytest.raises(ProtocolError, match="answered Question by"):
            check_asked("Question", answered, asked)


def test_an_answer_has_only_what_is_known() -> None:
    check_known("Question", ["a", "a"], {"a", "b"})
    with pytest.raises(ProtocolError, match="'c'"):
        check_known("Question", ["a", "c"], {"a", "b"})

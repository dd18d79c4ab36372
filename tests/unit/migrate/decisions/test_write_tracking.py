"""Tests of migrate/decisions/write_tracking.py: how written pages are found on two hosts."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest

from migrate.decisions.compatibility import Facts
from migrate.decisions.write_tracking import Mode, Tracking, choose
from migrate.errors import CannotPreCopy
from tests.unit.helpers.some_facts import facts

here, there = (partial(facts, hostname=name, kernel="6.18.1") for name in ("here", "there"))
ABLE = (here(lazy_pages=False), there(write_tracking=False, dumps_with_parent=False))
UNABLE = [
    (here(write_tracking=False), there(), "here cannot track writes (Linux 6.18.1 on x86_64"),
    (here(dumps_with_parent=False), there(), "CRIU on here cannot be told that memory went ahead"),
    (here(), there(lazy_pages=False), "no lazy pages on there"),
]


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.PRE_COPY])
def test_pre_copy_is_chosen_where_it_works(mode: Mode) -> None:
    tracking, why = choose(mode, *ABLE)
    assert tracking == (Tracking.USERFAULTFD,)
    assert why.startswith("pre-copy: ")


def test_stop_copy_is_chosen_when_asked_for() -> None:
    assert choose(Mode.STOP_COPY, *ABLE) == ((), "stop-copy, as asked for")


@pytest.mark.parametrize(("source", "target", "why"), UNABLE)
def test_where_pre_copy_cannot_work_the_reason_is_told(
    source: Facts, target: Facts, why: str
) -> None:
    tracking, said = choose(Mode.AUTO, source, target)
    assert tracking == ()
    assert said.startswith("stop-copy: ")
    assert why in said
    with pytest.raises(CannotPreCopy) as raised:
        choose(Mode.PRE_COPY, source, target)
    assert why in str(raised.value)


def test_soft_dirty_pages_are_for_what_userfaultfd_does_not_reach() -> None:
    tracking, why = choose(Mode.AUTO, here(soft_dirty=True), there())
    assert tracking == (Tracking.USERFAULTFD, Tracking.SOFT_DIRTY)
    assert why.startswith("pre-copy: ")


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.PRE_COPY])
@pytest.mark.parametrize(("source", "target", "why"), UNABLE)
def test_soft_dirty_pages_are_chosen_where_userfaultfd_cannot_work(
    mode: Mode, source: Facts, target: Facts, why: str
) -> None:
    tracking, said = choose(mode, dataclasses.replace(source, soft_dirty=True), target)
    assert tracking == (Tracking.SOFT_DIRTY,)
    assert said.startswith("pre-copy by soft-dirty pages: ")
    assert why in said

"""Tests of checkpoint/network/guard.py, with a program that stands for nft."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint.errors import CommandFailed
from checkpoint.network.guard import silenced
from checkpoint.undo import Made, Undo

NFT = """#!/bin/sh
echo "$*" >> {directory}/asked
[ "$1" = -f ] && cat > {directory}/rules
[ "$1" = list ] && cat {directory}/tables
[ "$1" = "{fails}" ] && exit 1
exit 0
"""
MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01", "02:00:00:00:00:02")


@pytest.fixture
def nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    write(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return tmp_path


def write(directory: Path, fails: str = "") -> None:
    """Write an nft that fails with such a first word."""
    (directory / "bin/nft").write_text(NFT.format(directory=directory, fails=fails))
    (directory / "bin/nft").chmod(0o755)


def asked(nft: Path) -> list[str]:
    return (nft / "asked").read_text().splitlines() if (nft / "asked").exists() else []


def test_new_links_are_silent_for_the_length_of_the_block(nft: Path) -> None:
    with silenced(MACS, "1f", Undo()):
        assert asked(nft) == ["-f -"]
        rules = (nft / "rules").read_text()
        assert "table bridge migrate_1f" in rules
        assert "ether saddr { 02:00:00:00:00:01, 02:00:00:00:00:02 } drop" in rules
        ports = rules.partition("iifname {")[2].partition("}")[0]
        assert {port.strip(' "') for port in ports.split(",")} == set(os.listdir("/sys/class/net"))
    assert asked(nft)[1:] == ["delete table bridge migrate_1f"]


def test_an_error_in_the_block_leaves_no_rules(nft: Path) -> None:
    with pytest.raises(KeyError), silenced(MACS, "1f", Undo()):
        raise KeyError
    assert asked(nft)[1:] == ["delete table bridge migrate_1f"]


def test_a_container_without_an_address_needs_no_rules(nft: Path) -> None:
    with silenced((), "1f", Undo()):
        pass
    assert asked(nft) == []


@pytest.mark.parametrize("fails", ["-f", "delete"])
def test_rules_that_cannot_be_set_or_removed_are_an_error(nft: Path, fails: str) -> None:
    write(nft, fails)
    entered = False
    with pytest.raises(CommandFailed), silenced(MACS, "1f", Undo()):
        entered = True
    assert entered is (fails == "delete")


def test_another_process_ends_the_silence_of_one_that_was_killed(nft: Path) -> None:
    things: list[Made] = []
    silence = silenced(MACS, "1f", Undo(lambda thing, _: things.append(thing)))
    silence.__enter__()  # and the process is killed
    (nft / "tables").write_text("table bridge somebodys\ntable bridge migrate_1f\n")
    [thing] = things
    thing.remove()
    assert asked(nft)[1:] == ["list tables bridge", "delete table bridge migrate_1f"]
    (nft / "tables").write_text("table bridge somebodys\n")
    thing.remove()
    assert asked(nft)[3:] == ["list tables bridge"]

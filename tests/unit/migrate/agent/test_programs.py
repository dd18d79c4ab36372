"""Tests of migrate/agent/programs.py: the programs that are sent to the target as text."""

from __future__ import annotations

import shlex

import pytest

from migrate.agent import programs


@pytest.mark.parametrize("name", ["bootstrap", "plug"])
def test_a_command_is_the_program_and_its_arguments_whatever_is_in_them(name: str) -> None:
    *words, argument = shlex.split(programs.command(name, "it's $HOME"))
    assert words == ["exec", "python3", "-Ic", programs.source(name)]
    assert argument == "it's $HOME"
    compile(programs.source(name), name, "exec")

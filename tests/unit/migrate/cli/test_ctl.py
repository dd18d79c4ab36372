"""Tests of migrate/cli/ctl.py: however migratectl ends, one line and a documented exit code."""

from __future__ import annotations

import errno
import os

import pytest

from checkpoint.engines.docker import install
from migrate import errors
from migrate.cli import ctl, recover
from migrate.cli.exit_codes import CODES, CTL_CODES
from migrate.errors import NotRoot


@pytest.mark.parametrize("words", [["status"], ["recover", "0123456789ab"], ["docker-runtime"]])
def test_a_user_other_than_root_is_told_to_be_root(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert ctl.main(words) == CODES[NotRoot]
    said = capsys.readouterr().err
    assert said.startswith("migratectl: not root on ")
    assert said.endswith("run as root\n")
    assert len(said.splitlines()) == 1


def test_help_and_version_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--help", "--version"):
        with pytest.raises(SystemExit) as ended:
            ctl.main([word])
        assert ended.value.code == 0
        assert capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["", "x", "../0123456789ab", "0123456789AB", "0123456789ab0", "0123456789ab\n"]
)
@pytest.mark.parametrize("on", [[], ["--on", "beta"]])
def test_recover_takes_no_path_for_an_id(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    on: list[str],
) -> None:
    def asked(*_: object) -> None:
        pytest.fail("an agent was asked")

    monkeypatch.setattr(recover, "run", asked)
    assert ctl.main(["recover", text, "--go", *on]) == CODES[errors.BadRequest] == 2
    said = capsys.readouterr().err
    assert "is no migration's id" in said
    assert len(said.splitlines()) == 1


def test_a_docker_that_cannot_be_prepared_has_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> list[str]:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(install, "install", fail)
    assert ctl.main(["docker-runtime"]) == CTL_CODES["NoDockerRuntime"]
    assert "stay as they are" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["recover"], ["recover", "0123456789ab"], ["status"], ["docker-runtime"]]
)
def test_on_this_host_only_root_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ctl.main(words) == CODES[errors.NotRoot]
    assert "root" in capsys.readouterr().err
